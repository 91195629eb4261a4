//! Rust source as the house rules read it: a stream of tokens without comments and strings.
//!
//! It is no parser. It knows enough to find paths (grouped imports written out), functions with
//! their last line, and items behind `#[cfg(test)]`; macros are read as if they were code.

/// A word, a number or one other character, and its line.
pub struct Token<'a> {
    pub text: &'a str,
    pub line: usize,
}

pub fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphanumeric() || first == '_')
}

pub fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    for (number, mut rest) in code.lines().enumerate() {
        while let Some(first) = rest.chars().next() {
            let is_inner = |c: char| c.is_alphanumeric() || c == '_';
            let length = match rest.find(|c: char| !is_inner(c)) {
                Some(0) if rest.starts_with("::") => 2,
                Some(0) => first.len_utf8(),
                Some(length) => length,
                None => rest.len(),
            };
            if !first.is_whitespace() {
                tokens.push(Token { text: &rest[..length], line: number + 1 });
            }
            rest = &rest[length..];
        }
    }
    tokens
}

/// Every path that the code names, grouped imports written out.
pub fn paths(code: &str) -> Vec<String> {
    let tokens = tokens(code);
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        // `pub(crate)` and `in crate::x` restrict, they name nothing.
        let is_restriction = at > 0
            && tokens[at - 1].text == "("
            && tokens.get(at + 1).is_some_and(|next| next.text == ")");
        if is_word(tokens[at].text) && !is_restriction {
            at = path_at(&tokens, at, "", &mut paths);
        } else {
            at += 1;
        }
    }
    paths
}

/// Reads the path that begins at a token, with `prefix` before it; returns the place after it.
fn path_at(tokens: &[Token<'_>], mut at: usize, prefix: &str, paths: &mut Vec<String>) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut path = prefix.to_owned();
    loop {
        if text(at) == "{" {
            at += 1;
            while !matches!(text(at), "}" | "") {
                at = match text(at) {
                    "," => at + 1,
                    _ => path_at(tokens, at, &path, paths).max(at + 1),
                };
            }
            return at + 1;
        }
        if !path.is_empty() {
            path.push_str("::");
        }
        path.push_str(text(at));
        at += 1;
        if text(at) != "::" || !(is_word(text(at + 1)) || matches!(text(at + 1), "{" | "*")) {
            break;
        }
        at += 1;
    }
    paths.push(path);
    if !prefix.is_empty() && text(at) == "as" { at + 2 } else { at }
}

/// The last token of the item that begins here: the brace that closes its block, or the semicolon
/// outside of all brackets that ends an item without one.
pub fn end_of_item<'a, 'b>(tokens: &'a [Token<'b>]) -> Option<&'a Token<'b>> {
    let mut depth = 0;
    for token in tokens {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            ";" => {}
            _ => continue,
        }
        if depth == 0 && matches!(token.text, "}" | ";") {
            return Some(token);
        }
    }
    None
}

/// The code without items behind `#[cfg(test)]`.
pub fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some((before, behind)) = rest.split_once("#[cfg(test)]") {
        kept.push_str(before);
        let tokens = tokens(behind);
        let lines = end_of_item(&tokens).map_or(1, |token| token.line);
        let length = behind.split_inclusive('\n').take(lines).map(str::len).sum();
        rest = &behind[length..];
    }
    kept + rest
}

/// The code with comments, strings and character literals blanked out, line by line the same.
pub fn blanked(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_inside_word = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment_length(rest),
            '"' => quoted_length(rest, '"'),
            '\'' => char_length(rest),
            'r' | 'b' | 'c' if !is_inside_word => raw_string_length(rest),
            _ => 0,
        };
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        code.push_str(if rest.starts_with('/') { " " } else { "\"\"" });
        code.extend(rest[..length].chars().filter(|c| *c == '\n'));
        rest = &rest[length..];
    }
    code
}

fn block_comment_length(text: &str) -> usize {
    let mut depth = 0;
    for (at, _) in text.char_indices() {
        depth += i32::from(text[at..].starts_with("/*"));
        depth -= i32::from(text[at..].starts_with("*/"));
        if depth == 0 {
            return (at + 2).min(text.len());
        }
    }
    text.len()
}

/// The length of a literal that begins and ends with this quote.
fn quoted_length(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a character literal, or 0 for a lifetime.
fn char_length(text: &str) -> usize {
    let mut chars = text.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) | (_, Some('\'')) => quoted_length(text, '\''),
        _ => 0,
    }
}

/// The length of a raw string (`r"`, `br#"`, ...), or 0 when the letter begins something else.
fn raw_string_length(text: &str) -> usize {
    let Some(behind) = text.trim_start_matches(['b', 'c']).strip_prefix('r') else {
        return 0;
    };
    let hashes = behind.len() - behind.trim_start_matches('#').len();
    if !behind[hashes..].starts_with('"') {
        return 0;
    }
    let begin = text.len() - behind.len() + hashes + 1;
    let end = format!("\"{}", "#".repeat(hashes));
    text[begin..].find(&end).map_or(text.len(), |at| begin + at + end.len())
}
