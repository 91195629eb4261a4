//! `tablespace_map`: where a backup's tablespaces were.
//!
//! Lines of an object id, a blank and a path in which a backslash stands before each line feed,
//! carriage return and backslash (`src/backend/access/transam/xlog.c`, `do_pg_backup_start`;
//! `xlogrecovery.c`, `read_tablespace_map`).
//!
//! pgkeep reads it to learn the locations. It never restores it: a server that finds one relinks its
//! tablespaces to the places named in it, which are the source's.

use super::{Error, Result, read};

/// One tablespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceLocation {
    /// Its object id, the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Where the link leads.
    pub path: Vec<u8>,
}

/// Reads the file, or the third column of `pg_backup_stop`.
///
/// # Errors
/// [`Error::Malformed`] for a line that is no entry or has no end, [`Error::Corrupt`] for an object id
/// that comes twice.
pub fn parse(content: &[u8]) -> Result<Vec<TablespaceLocation>> {
    let mut locations: Vec<TablespaceLocation> = Vec::new();
    for line in unescaped_lines(content)? {
        if line.is_empty() {
            continue;
        }
        let location =
            location(&line).ok_or_else(|| Error::malformed("a line of a tablespace map", &line))?;
        if locations.iter().any(|other| other.oid == location.oid) {
            let expected = "one line for each tablespace";
            return Err(Error::corrupt(
                "tablespace map",
                expected,
                format!("two for {}", location.oid),
            ));
        }
        locations.push(location);
    }
    Ok(locations)
}

/// The file's content.
#[must_use]
pub fn render(locations: &[TablespaceLocation]) -> Vec<u8> {
    let mut content = Vec::new();
    for location in locations {
        content.extend_from_slice(format!("{} ", location.oid).as_bytes());
        for byte in &location.path {
            if matches!(byte, b'\n' | b'\r' | b'\\') {
                content.push(b'\\');
            }
            content.push(*byte);
        }
        content.push(b'\n');
    }
    content
}

/// The lines without their escapes; a line feed or carriage return without one ends a line.
fn unescaped_lines(content: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut lines = Vec::new();
    let mut line = Vec::new();
    let mut escaped = false;
    for byte in content {
        match byte {
            _ if escaped => {
                line.push(*byte);
                escaped = false;
            }
            b'\\' => escaped = true,
            b'\n' | b'\r' => lines.push(std::mem::take(&mut line)),
            _ => line.push(*byte),
        }
    }
    if escaped || !line.is_empty() {
        return Err(Error::malformed("a line of a tablespace map with its end", &line));
    }
    Ok(lines)
}

fn location(line: &[u8]) -> Option<TablespaceLocation> {
    let blank = line.iter().position(|byte| *byte == b' ')?;
    let (oid, path) = line.split_at_checked(blank)?;
    let path = path.strip_prefix(b" ").filter(|path| !path.is_empty())?;
    Some(TablespaceLocation {
        oid: read::decimal(oid).filter(|oid| *oid > 0)?,
        path: path.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::{MajorVersion, fixture};
    use proptest::prelude::*;

    #[test]
    fn maps_of_real_servers() {
        for major in MajorVersion::ALL {
            let content = fixture::bytes(major, "tablespace_map");
            let locations = parse(&content).unwrap();
            assert_eq!(locations.len(), 1, "{major}");
            assert!(locations[0].path.ends_with(br"/space\ one"), "{major}");
            assert_eq!(render(&locations), content, "{major}");
        }
    }

    #[test]
    fn what_the_server_refuses() {
        assert_eq!(parse(b""), Ok(vec![]));
        assert_eq!(parse(b"\r\n1 a\r\n").unwrap().len(), 1);
        for content in [
            "1 a",
            "1 a\\",
            "1 a\\\n",
            "1\n",
            "1 \n",
            "x a\n",
            "0 a\n",
            " 1 a\n",
            "4294967296 a\n",
            "1 a\n1 b\n",
        ] {
            assert!(parse(content.as_bytes()).is_err(), "{content:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(content: Vec<u8>) {
            parse(&content).ok();
        }

        #[test]
        fn round_trip(paths in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..30), 0..5)) {
            let locations: Vec<_> = (1..).zip(paths).map(|(oid, path)| TablespaceLocation { oid, path }).collect();
            prop_assert_eq!(parse(&render(&locations)), Ok(locations));
        }
    }
}
