//! Words as a shell reads them.

/// A word, quoted where it has to be.
#[must_use]
pub fn word(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-=:,+@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_only_where_they_have_to_be() {
        for plain in ["/usr/bin/pgkeep", "--config=/a/b.conf", "%f", "a@b:5432"] {
            assert_eq!(word(plain), plain);
        }
        assert_eq!(word("my config.toml"), "'my config.toml'");
        assert_eq!(word("it's"), "'it'\\''s'");
        assert_eq!(word("$HOME"), "'$HOME'");
        assert_eq!(word(""), "''");
    }
}
