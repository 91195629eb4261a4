//! Which host this is, as far as it can be told from others.

use std::fmt;

/// A host. Its text is what records keep: the name and, where there is one, the id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    name: String,
    id: Option<String>,
}

impl Host {
    /// A host by its name and the content of its `/etc/machine-id`, which is empty in many containers,
    /// and says "uninitialized" in an image that was never booted.
    #[must_use]
    pub fn new(name: String, machine_id: &str) -> Self {
        let id = Some(machine_id.trim()).filter(|id| !id.is_empty() && *id != "uninitialized");
        Self { name, id: id.map(str::to_owned) }
    }

    /// Whether it differs from every other host. A name alone does not: the first pod of each
    /// StatefulSet of that name is called the same, in every namespace.
    #[must_use]
    pub fn has_identity(&self) -> bool {
        self.id.is_some()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => write!(f, "{} {id}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d20261124_a_name_alone_is_no_identity() {
        for id in ["", "\n", "uninitialized\n"] {
            let host = Host::new("postgres-0".into(), id);
            assert!(!host.has_identity() && host.to_string() == "postgres-0", "{id:?}");
        }
        let host = Host::new("db".into(), "3d1219c7c4c5404aaa1f6d2a48adfda4\n");
        assert!(host.has_identity());
        assert_eq!(host.to_string(), "db 3d1219c7c4c5404aaa1f6d2a48adfda4");
    }
}
