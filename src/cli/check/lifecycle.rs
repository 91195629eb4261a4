//! What `check` says of a bucket's lifecycle rules: age does not tell which backup needs which WAL.

use super::findings::Findings;
use crate::config::RepositorySettings;
use crate::storage::s3::BucketRule;
use crate::storage::{self, StorageClass};
use crate::tiering::{CLASS_TAG, Way};

const CHECK: &str = "lifecycle rules";

/// Looks at what the bucket's rules would do to objects of the repository; `found` is nothing where the service does not
/// tell.
pub fn look(
    settings: &RepositorySettings,
    found: storage::Result<Option<Vec<BucketRule>>>,
    is_versioned: Option<bool>,
    findings: &mut Findings,
) {
    let rules = match found {
        Ok(Some(rules)) => rules,
        Ok(None) => {
            return findings.ok(CHECK, "not told by the service to these credentials");
        }
        Err(error) => return findings.failure(CHECK, error.into()),
    };
    let mut is_sound = true;
    for rule in &rules {
        if let Some((found, todo)) = harm(rule) {
            is_sound = false;
            findings.fail(CHECK, format!("rule {}: {found}", rule.id), todo);
        }
    }
    let lacking = settings.tiering.iter().filter(|tiering| tiering.way == Way::Tag);
    let lacking =
        lacking.flat_map(|tiering| tiering.classes()).find(|class| !moves_tagged(&rules, class));
    if let Some(class) = lacking {
        is_sound = false;
        let found = format!(
            "none moves packs with the tag {CLASS_TAG} = {class}: they stay where they are"
        );
        findings.warn(CHECK, found, "Add the rules that `pgkeep repository lifecycle` prints.");
    }
    let copies = settings.tiering.as_ref().is_some_and(|tiering| tiering.way == Way::Copy);
    if copies && is_versioned == Some(true) && !rules.iter().any(|rule| rule.ends_versions) {
        is_sound = false;
        let found = "none ends older versions: each pack that tiering copies leaves one, which is paid for for good";
        let todo = "Add a rule with NoncurrentVersionExpiration (docs/s3.md), or write tiering.by = \"tag\".";
        findings.warn(CHECK, found, todo);
    }
    if is_sound {
        findings.ok(CHECK, "none that removes objects of the repository, or makes them unreadable");
    }
}

/// What a rule would do to objects of the repository, and what to do about it.
fn harm(rule: &BucketRule) -> Option<(String, &'static str)> {
    let is_by_tag = rule.tags.iter().any(|(name, _)| name == CLASS_TAG);
    // Nothing of pgkeep's has another tag; and probes are of no worth.
    let is_elsewhere = !rule.tags.is_empty() && !is_by_tag || rule.prefix.starts_with("probe/");
    if is_by_tag && !rule.removes || is_elsewhere {
        return None;
    }
    if rule.removes {
        let found =
            "it removes objects by their age: WAL and parents that living backups need among them";
        let todo = "Take the repository out of it: pgkeep expire removes what the rules of retention do not keep.";
        return Some((found.into(), todo));
    }
    let cold = rule.moves_to.iter().find(|class| class.needs_thaw())?;
    let found = format!(
        "it moves objects to {cold}, WAL among them: a server that asks for it gets nothing"
    );
    let todo = "Take the repository out of it, and write [repository.<name>.tiering]: only packs of old backups \
                move then.";
    Some((found, todo))
}

fn moves_tagged(rules: &[BucketRule], class: &StorageClass) -> bool {
    let tag = (CLASS_TAG.to_owned(), class.name().to_owned());
    rules.iter().any(|rule| {
        rule.prefix.is_empty() && rule.tags == [tag.clone()] && rule.moves_to.contains(class)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(prefix: &str, tag: Option<&str>, to: Option<StorageClass>) -> BucketRule {
        BucketRule {
            id: "a".into(),
            prefix: prefix.into(),
            tags: tag.into_iter().map(|class| (CLASS_TAG.to_owned(), class.to_owned())).collect(),
            removes: to.is_none(),
            ends_versions: false,
            moves_to: to.into_iter().collect(),
        }
    }

    #[test]
    fn f089_rules_that_remove_or_hide_are_told() {
        use StorageClass::{Glacier, StandardIa};
        assert!(harm(&rule("", None, None)).unwrap().0.contains("removes objects"));
        assert!(
            harm(&rule("c/main/", None, Some(Glacier)))
                .unwrap()
                .0
                .contains("moves objects to GLACIER")
        );
        assert_eq!(harm(&rule("", None, Some(StandardIa))), None, "it can be read");
        assert_eq!(harm(&rule("probe/", None, None)), None);
        assert!(harm(&rule("lease/", None, None)).is_some(), "what is in use is told there");
        let foreign =
            BucketRule { tags: vec![("temp".into(), "yes".into())], ..rule("", None, None) };
        assert_eq!(harm(&foreign), None);
        assert_eq!(harm(&rule("", Some("GLACIER"), Some(Glacier))), None);
        assert!(harm(&rule("", Some("GLACIER"), None)).is_some());
        let own = rule("", Some("GLACIER"), Some(Glacier));
        assert!(moves_tagged(std::slice::from_ref(&own), &Glacier));
        assert!(!moves_tagged(&[own], &StorageClass::DeepArchive));
    }
}
