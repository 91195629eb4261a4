//! Where a repository is: the `url` of its section, read but not opened.

use std::path::PathBuf;

/// Where a repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A folder on this host.
    File(PathBuf),
    /// A bucket.
    S3(S3Location),
}

/// A place in a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct S3Location {
    /// The bucket.
    pub bucket: String,
    /// What the names of all objects begin with; without slashes at its ends, may be empty.
    pub prefix: String,
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "file://{}", path.display()),
            Self::S3(s3) if s3.prefix.is_empty() => write!(f, "s3://{}", s3.bucket),
            Self::S3(s3) => write!(f, "s3://{}/{}", s3.bucket, s3.prefix),
        }
    }
}

/// Reads a URL. The path is taken as it stands: no percent decoding, no query.
pub(super) fn parse_location(url: &str) -> Result<Location, String> {
    if url.chars().any(char::is_control) {
        return Err("it has control characters".into());
    }
    if let Some(path) = url.strip_prefix("file://") {
        return parse_file(path);
    }
    if let Some(rest) = url.strip_prefix("s3://") {
        return parse_s3(rest);
    }
    Err("it must begin with file:/// or s3://, such as file:///var/lib/pgkeep".into())
}

fn parse_file(path: &str) -> Result<Location, String> {
    let trimmed = path.trim_end_matches('/');
    if !path.starts_with('/') {
        return Err("a folder needs three slashes and an absolute path, such as \
                    file:///var/lib/pgkeep"
            .into());
    }
    if trimmed.is_empty() {
        return Err("the root of the file system cannot be a repository; name a folder".into());
    }
    if trimmed.split('/').any(|part| part == "..") {
        return Err("a path with .. in it may change its meaning; write the plain path".into());
    }
    Ok(Location::File(trimmed.into()))
}

fn parse_s3(rest: &str) -> Result<Location, String> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.contains(['@', ':']) {
        return Err(
            "credentials do not belong in a URL; the usual AWS chain is read for them".into()
        );
    }
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if bucket.is_empty() || !bucket.bytes().all(is_allowed) {
        return Err("after s3:// comes the name of a bucket, such as s3://bucket/prefix".into());
    }
    if !(3..=63).contains(&bucket.len()) {
        return Err("the name of a bucket has 3 to 63 characters".into());
    }
    let prefix = prefix.trim_matches('/').to_owned();
    // Names of objects have up to 700 bytes, and S3 takes 1024.
    if prefix.len() > 300 || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a prefix has at most 300 visible ASCII characters".into());
    }
    if prefix.split('/').any(|part| matches!(part, "" | "." | "..")) && !prefix.is_empty() {
        return Err("a prefix has no empty parts, and none that is a dot or two".into());
    }
    Ok(Location::S3(S3Location { bucket: bucket.into(), prefix }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_read_and_shown() {
        for (url, shown) in [
            ("file:///var/lib/pgkeep", "file:///var/lib/pgkeep"),
            ("file:///var/lib/pg%20keep/", "file:///var/lib/pg%20keep"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ] {
            assert_eq!(parse_location(url).unwrap().to_string(), shown, "{url}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_an_example() {
        for (url, word) in [
            ("", "file:///"),
            ("/var/lib/pgkeep", "file:///"),
            ("file:/var/lib", "file:///"),
            ("file://var/lib", "three slashes"),
            ("file:///", "root"),
            ("file:///a/../b", "plain path"),
            ("file:///a\0b", "control"),
            ("s3://", "bucket"),
            ("s3:///x", "bucket"),
            ("s3://key:secret@bucket", "credentials"),
            ("s3://ab", "3 to 63"),
            ("s3://bucket/a//b", "empty parts"),
            ("s3://bucket/a/../b", "a dot or two"),
            ("s3://bucket/ä", "visible ASCII"),
            ("https://bucket", "s3://"),
        ] {
            let wrong = parse_location(url).unwrap_err();
            assert!(wrong.contains(word), "{url}: {wrong}");
            assert!(!wrong.contains("secret"), "{wrong}");
        }
    }
}
