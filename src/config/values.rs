//! One function per kind of value: text to type, or what is wrong with it and how to write it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::duration::parse_duration;
use super::secret_source::{SecretFile, SecretFolders};
use crate::base::ByteSize;
use crate::daemon::Schedule;
use crate::repo::CipherChoice;
use crate::storage::StorageClass;
use crate::tiering::{Price, Way};

/// What `archive-push` and `archive-get` do when no daemon answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// The work, without it.
    Direct,
    /// Nothing.
    Fail,
}

/// The value, or why not.
pub(super) type Read<T> = std::result::Result<T, String>;

pub(super) fn boolean(text: &str) -> Read<bool> {
    text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
}

pub(super) fn count(text: &str) -> Read<u32> {
    text.parse().map_err(|_| format!("{text:?} is not a whole number from 0 on"))
}

pub(super) fn some_count(text: &str) -> Read<u32> {
    let some = count(text).ok().filter(|count| *count > 0);
    some.ok_or_else(|| format!("{text:?} is not a whole number from 1 on"))
}

pub(super) fn percent(text: &str) -> Read<u8> {
    let percent = text.trim_end().strip_suffix('%').unwrap_or(text).trim_end().parse().ok();
    let percent = percent.filter(|percent| (0..=100).contains(percent));
    percent.ok_or_else(|| format!("{text:?} is not a share from 0% to 100%"))
}

pub(super) fn jobs(text: &str) -> Read<usize> {
    let jobs = text.parse().ok().filter(|jobs| (1..=256).contains(jobs));
    jobs.ok_or_else(|| format!("{text:?} is not a whole number from 1 to 256"))
}

pub(super) fn time(text: &str) -> Read<Duration> {
    parse_duration(text).map_err(|wrong| wrong.to_string())
}

pub(super) fn some_time(text: &str) -> Read<Duration> {
    match time(text)? {
        Duration::ZERO => Err("must be longer than nothing".into()),
        time => Ok(time),
    }
}

/// "1m" is a minute, and who writes it for a window means a month.
pub(super) fn window(text: &str) -> Read<Duration> {
    match time(text)? {
        short if short > Duration::ZERO && short < Duration::from_hours(1) => Err(format!(
            "{text:?} is less than an hour: m is minutes; write 30d for a month, or 0s for no window"
        )),
        window => Ok(window),
    }
}

pub(super) fn rate(text: &str) -> Read<Option<ByteSize>> {
    if text == "unlimited" {
        return Ok(None);
    }
    match text.parse::<ByteSize>() {
        Ok(ByteSize(0)) => {
            Err("nothing would ever be read; write \"unlimited\" for no limit".into())
        }
        Ok(rate) => Ok(Some(rate)),
        Err(wrong) => Err(format!("{wrong}, or \"unlimited\"")),
    }
}

pub(super) fn size(text: &str) -> Read<u64> {
    text.parse::<ByteSize>().map(|size| size.0).map_err(|wrong| wrong.to_string())
}

pub(super) fn pack_size(text: &str) -> Read<u64> {
    let bytes = size(text)?;
    let is_fit = (1 << 20..=2 << 30).contains(&bytes);
    is_fit.then_some(bytes).ok_or_else(|| format!("{text:?} is not a size from 1MiB to 2GiB"))
}

pub(super) fn fallback(text: &str) -> Read<Fallback> {
    match text {
        "direct" => Ok(Fallback::Direct),
        "fail" => Ok(Fallback::Fail),
        _ => Err(format!("{text:?} is neither \"direct\" nor \"fail\"")),
    }
}

/// One that objects can be moved to.
pub(super) fn storage_class(text: &str) -> Read<StorageClass> {
    match StorageClass::parse(text) {
        StorageClass::Standard => {
            Err("STANDARD is where packs are stored first: nothing moves there".into())
        }
        StorageClass::Other(_) => Err(format!(
            "{text:?} is not a storage class: write STANDARD_IA, ONEZONE_IA, INTELLIGENT_TIERING, GLACIER_IR, \
             GLACIER or DEEP_ARCHIVE"
        )),
        class => Ok(class),
    }
}

pub(super) fn days(text: &str) -> Read<u16> {
    let days = text.parse().ok().filter(|days| (1..=365).contains(days));
    days.ok_or_else(|| format!("{text:?} is not a whole number of days from 1 to 365"))
}

pub(super) fn tiering_way(text: &str) -> Read<Way> {
    match text {
        "copy" => Ok(Way::Copy),
        "tag" => Ok(Way::Tag),
        _ => Err(format!("{text:?} is neither \"copy\" nor \"tag\"")),
    }
}

pub(super) fn price(text: &str) -> Read<Price> {
    let wrong = || format!("{text:?} is not a price: write a decimal number, such as \"0.023\"");
    Price::parse(text).ok_or_else(wrong)
}

pub(super) fn some_text(text: &str) -> Read<String> {
    if text.trim().is_empty() { Err("is empty".into()) } else { Ok(text.to_owned()) }
}

pub(super) fn absolute(text: &str) -> Read<PathBuf> {
    let path = PathBuf::from(text);
    if text.contains('\0') || !path.is_absolute() {
        return Err(format!("{text:?} is not an absolute path: it must begin with a slash"));
    }
    Ok(path)
}

pub(super) fn secret_file(text: &str, folders: &SecretFolders<'_>) -> Read<SecretFile> {
    let path = Path::new(some_text(text)?.as_str()).to_owned();
    if text.contains('\0') {
        return Err(format!("{text:?} is not a path"));
    }
    if path.is_absolute() {
        return Ok(SecretFile { path, credential: None });
    }
    let credential = folders.credentials.map(|folder| folder.join(&path));
    Ok(SecretFile { path: folders.beside.join(path), credential })
}

pub(super) fn cipher(text: &str) -> Read<CipherChoice> {
    let known = [CipherChoice::Aes256Cbc, CipherChoice::None];
    known.into_iter().find(|cipher| cipher.name() == text).ok_or_else(|| {
        format!("{text:?} is not a cipher: write \"aes-256-cbc\", or \"none\" for no encryption")
    })
}

pub(super) fn timezone(text: &str) -> Read<chrono_tz::Tz> {
    text.parse().map_err(|_| {
        format!(
            "{text:?} is not a time zone: write its IANA name, such as \"UTC\" or \"Europe/Berlin\""
        )
    })
}

pub(super) fn schedule(text: &str) -> Read<Schedule> {
    Schedule::parse(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_units_or_no_limit() {
        assert_eq!(rate("unlimited"), Ok(None));
        assert_eq!(rate("2MB"), Ok(Some(ByteSize(2_000_000))));
        assert!(rate("0").unwrap_err().contains("unlimited"));
        assert!(rate("fast").unwrap_err().ends_with("or \"unlimited\""));
    }

    #[test]
    fn classes_are_spelt_as_s3_does() {
        assert_eq!(storage_class("GLACIER"), Ok(StorageClass::Glacier));
        for bad in ["glacier", "GLACIER ", "", "STANDARD", "SNOW", "REDUCED_REDUNDANCY"] {
            assert!(storage_class(bad).is_err(), "{bad}");
        }
        assert_eq!((days("1"), days("365")), (Ok(1), Ok(365)));
        assert!(days("0").is_err() && days("366").is_err() && days("7d").is_err());
    }

    #[test]
    fn numbers_stay_in_their_range() {
        assert_eq!((jobs("1"), jobs("256")), (Ok(1), Ok(256)));
        for bad in ["0", "257", "-1", "", "4.0"] {
            assert!(jobs(bad).is_err(), "{bad}");
        }
        assert!(count("0").is_ok() && count("4294967296").is_err());
    }
}
