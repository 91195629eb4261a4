//! `pg_hba.conf` and `pg_ident.conf`, read only as far as to know which other files they need.
//!
//! The tokens are those of `src/backend/libpq/hba.c` (`next_token`, `tokenize_auth_file`): blanks and
//! commas between them, double quotes around them, comments from `#` on, a backslash at the end of a line
//! joins it with the next. `include` and its kin lead a line since 16; a token `@name` is a file of names
//! in all versions.

/// Another file that a file needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// One that must be there.
    File(String),
    /// One that may be missing.
    FileIfExists(String),
    /// Every `*.conf` in a directory.
    Directory(String),
    /// A list of names, which may refer to further ones.
    List(String),
}

/// A token, and whether it began with a quote: then it is neither a keyword nor a reference.
#[derive(Debug, Default)]
struct Token {
    text: String,
    is_quoted: bool,
}

/// What a file refers to, in order. Bytes that are not UTF-8 are replaced.
#[must_use]
pub fn references(content: &[u8]) -> Vec<Reference> {
    let text = String::from_utf8_lossy(content).replace("\\\r\n", "").replace("\\\n", "");
    text.lines().flat_map(of_line).collect()
}

/// What a list of names (`@name`) refers to: there a keyword is a name like any other.
#[must_use]
pub fn references_of_list(content: &[u8]) -> Vec<Reference> {
    let text = String::from_utf8_lossy(content).replace("\\\r\n", "").replace("\\\n", "");
    text.lines().flat_map(|line| lists(&tokens(line))).collect()
}

fn of_line(line: &str) -> Vec<Reference> {
    let tokens = tokens(line);
    if let [first, second, ..] = tokens.as_slice()
        && !first.is_quoted
    {
        let path = second.text.clone();
        match first.text.as_str() {
            "include" => return vec![Reference::File(path)],
            "include_if_exists" => return vec![Reference::FileIfExists(path)],
            "include_dir" => return vec![Reference::Directory(path)],
            _ => {}
        }
    }
    lists(&tokens)
}

fn lists(tokens: &[Token]) -> Vec<Reference> {
    let names = tokens.iter().filter(|token| !token.is_quoted);
    let names = names.filter_map(|token| token.text.strip_prefix('@'));
    names.filter(|name| !name.is_empty()).map(|name| Reference::List(name.into())).collect()
}

fn tokens(line: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut token: Option<Token> = None;
    let mut in_quotes = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '#' if !in_quotes => break,
            ' ' | '\t' | '\r' | ',' if !in_quotes => tokens.extend(token.take()),
            '"' if in_quotes && characters.peek() == Some(&'"') => {
                characters.next();
                token.get_or_insert_default().text.push('"');
            }
            '"' => {
                in_quotes = !in_quotes;
                token.get_or_insert_with(|| Token { text: String::new(), is_quoted: true });
            }
            other => token.get_or_insert_default().text.push(other),
        }
    }
    tokens.extend(token);
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_file_refers_to() {
        let content = b"# include commented\n\
            local all,@dbs, \"@quoted\" @\"users file\" trust # @comment\n\
            include pg_hba.d/one.conf\n\
            include_if_exists \"with space.conf\"\n\
            \"include\" all all trust\n\
            include_dir conf.d\n\
            host all @a\\\nb all trust\n\
            host @ all all trust\n\
            include";
        let expected = [
            Reference::List("dbs".into()),
            Reference::List("users file".into()),
            Reference::File("pg_hba.d/one.conf".into()),
            Reference::FileIfExists("with space.conf".into()),
            Reference::Directory("conf.d".into()),
            Reference::List("ab".into()),
        ];
        assert_eq!(references(content), expected);
        let list = references_of_list(b"include one\n@two three\n");
        assert_eq!(list, [Reference::List("two".into())]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(content: Vec<u8>) {
            prop_assert!(references_of_list(&content).len() <= content.len());
            prop_assert!(references(&content).len() <= content.len());
        }
    }
}
