//! "Did you mean": the known word that a mistyped one is closest to.

/// The candidate closest to `word` by edit distance, if any is close enough to be meant.
///
/// Only the last part of dotted candidates is compared, so that a key in the wrong section finds
/// its right one. Of equally close candidates the first wins.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    let last_part = |candidate: &str| {
        candidate.rsplit('.').next().unwrap_or_default().to_ascii_lowercase().replace('-', "_")
    };
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &last_part(candidate)), candidate))
        .filter(|(distance, _)| *distance <= (word.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours from `left` to `right`.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in right.iter().enumerate() {
            let mut cost = (above[j] + usize::from(a != b)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == right[j - 1] && left[i - 1] == *b {
                cost = cost.min(before[j - 1] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_finger_are_found() {
        let keys = ["url", "connection", "data_directory", "encryption.key_file", "rpo"];
        for (typed, meant) in [
            ("conection", Some("connection")),
            ("conenction", Some("connection")),
            ("data-directory", Some("data_directory")),
            ("keyfile", Some("encryption.key_file")),
            ("KEY_FILE", Some("encryption.key_file")),
            ("rop", Some("rpo")),
            ("uri", Some("url")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, keys), meant, "{typed}");
        }
    }

    #[test]
    fn distances() {
        for (left, right, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "acb", 1),
            ("kitten", "sitting", 3),
            ("ä", "a", 1),
        ] {
            assert_eq!(distance(left, right), expected, "{left} {right}");
            assert_eq!(distance(right, left), expected, "{right} {left}");
        }
    }
}
