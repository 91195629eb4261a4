//! One section of the layered settings, read key by key.

use super::error::{Error, Result};
use super::layers::{Address, Layered, SectionName, Setting};
use super::values::Read;

/// One section of the layered settings.
pub(super) struct Reader<'r> {
    pub(super) layered: &'r Layered,
    pub(super) section: &'r SectionName,
}

impl<'r> Reader<'r> {
    pub(super) fn address(&self, key: &'static str) -> Address {
        Address { section: self.section.clone(), key }
    }

    pub(super) fn setting(&self, key: &'static str) -> Option<&'r Setting> {
        self.layered.find(self.section, key)
    }

    pub(super) fn find<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&str) -> Read<T>,
    ) -> Result<Option<T>> {
        let Some(setting) = self.setting(key) else {
            return Ok(None);
        };
        read(setting.expose()).map(Some).map_err(|why| Error::InvalidValue {
            origin: setting.origin.clone(),
            key: self.address(key).to_string(),
            why,
        })
    }

    /// For keys that have a default.
    pub(super) fn get<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&str) -> Read<T>,
    ) -> Result<T> {
        self.find(key, read)?.ok_or_else(|| self.missing(key, "it has no default; write one"))
    }

    pub(super) fn missing(&self, key: &'static str, hint: &str) -> Error {
        Error::MissingKey {
            file: self.layered.describe_source(),
            key: self.address(key).to_string(),
            hint: hint.to_owned(),
        }
    }

    pub(super) fn conflict(&self, why: String) -> Error {
        let file = self.layered.describe_source();
        Error::Conflict { file, section: self.section.to_string(), why }
    }
}
