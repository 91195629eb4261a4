//! The bucket's own rules that go by age: they know names and tags, not which backup needs what.

use aws_sdk_s3::types::{ExpirationStatus, LifecycleRule, Tag};

use super::bucket::told;
use super::connection::Connection;
use super::failure::Failure;
use super::operation::Operation;
use super::store::S3Store;
use crate::storage::{Result, StorageClass};

/// A rule that is on and may meet objects of this store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketRule {
    /// Its name.
    pub id: String,
    /// It goes for names that begin so, relative to the store; all where that is empty.
    pub prefix: String,
    /// It goes only for objects with all of these tags.
    pub tags: Vec<(String, String)>,
    /// Whether it removes current objects, or hides them in a bucket with versions.
    pub removes: bool,
    /// Whether it ends older versions.
    pub ends_versions: bool,
    /// Where it moves current objects to.
    pub moves_to: Vec<StorageClass>,
}

impl S3Store {
    /// The bucket's rules about objects of this store; nothing where the service does not tell.
    ///
    /// # Errors
    /// As [`S3Store::region`].
    pub fn lifecycle_rules(&self) -> Result<Option<Vec<BucketRule>>> {
        let connection = &self.connection;
        let found = connection.wait(connection.lifecycle());
        found.map_err(|failure| connection.error(Operation::Lifecycle, "", failure))
    }
}

impl Connection {
    async fn lifecycle(&self) -> std::result::Result<Option<Vec<BucketRule>>, Failure> {
        let attempt = async |_| {
            let request = self.client().get_bucket_lifecycle_configuration();
            request.bucket(&self.options.bucket).send().await.map_err(Failure::of)
        };
        let answer = match self.call(Operation::Lifecycle, 0, attempt).await {
            Err(failure) if failure.says("NoSuchLifecycleConfiguration") => {
                return Ok(Some(Vec::new()));
            }
            outcome => told(outcome)?,
        };
        let root = self.name("");
        Ok(answer.map(|answer| {
            let rules = answer.rules.unwrap_or_default();
            rules.iter().filter_map(|rule| read(rule, &root)).collect()
        }))
    }
}

/// Nothing of a rule that is off, or of other names.
fn read(rule: &LifecycleRule, root: &str) -> Option<BucketRule> {
    if rule.status != ExpirationStatus::Enabled {
        return None;
    }
    let filter = rule.filter.as_ref();
    let all = filter.and_then(|filter| filter.and.as_ref());
    #[allow(deprecated, reason = "old rules have their prefix there")]
    let own = rule.prefix.as_deref();
    let prefix = filter.and_then(|filter| filter.prefix.as_deref());
    let prefix = prefix.or_else(|| all.and_then(|all| all.prefix.as_deref())).or(own).unwrap_or("");
    let inner = match prefix.strip_prefix(root) {
        Some(inner) => inner,
        None if root.starts_with(prefix) => "",
        None => return None,
    };
    let one = filter.and_then(|filter| filter.tag.as_ref());
    let several = all.and_then(|all| all.tags.as_ref()).into_iter().flatten();
    let tag = |tag: &Tag| (tag.key.clone(), tag.value.clone());
    let expiration = rule.expiration.as_ref();
    let moves = rule.transitions.iter().flatten().filter_map(|to| to.storage_class.as_ref());
    Some(BucketRule {
        id: rule.id.clone().unwrap_or_default(),
        prefix: inner.to_owned(),
        tags: one.into_iter().chain(several).map(tag).collect(),
        removes: expiration.is_some_and(|it| it.days.is_some() || it.date.is_some()),
        ends_versions: rule.noncurrent_version_expiration.is_some(),
        moves_to: moves.map(|class| StorageClass::parse(class.as_str())).collect(),
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::{
        LifecycleExpiration, LifecycleRuleAndOperator, LifecycleRuleFilter, Transition,
        TransitionStorageClass,
    };

    use super::*;

    fn rule(prefix: &str) -> aws_sdk_s3::types::builders::LifecycleRuleBuilder {
        let filter = LifecycleRuleFilter::builder().prefix(prefix).build();
        LifecycleRule::builder().id("a").status(ExpirationStatus::Enabled).filter(filter)
    }

    #[test]
    fn rules_about_other_names_and_those_that_are_off_do_not_count() {
        let found =
            |prefix| read(&rule(prefix).build().unwrap(), "pgkeep/").map(|rule| rule.prefix);
        for (prefix, inner) in [
            ("", Some("")),
            ("pg", Some("")),
            ("pgkeep/", Some("")),
            ("pgkeep/c/main/", Some("c/main/")),
            ("photos/", None),
            ("pgkeep-old/", None),
        ] {
            assert_eq!(found(prefix).as_deref(), inner, "{prefix}");
        }
        let off = rule("").status(ExpirationStatus::Disabled).build().unwrap();
        assert_eq!(read(&off, ""), None);
    }

    #[test]
    fn what_a_rule_does_is_told() {
        let marker = LifecycleExpiration::builder().expired_object_delete_marker(true).build();
        let harmless = rule("").expiration(marker).build().unwrap();
        assert!(!read(&harmless, "").unwrap().removes, "markers of what is gone");
        let days = LifecycleExpiration::builder().days(30).build();
        assert!(read(&rule("").expiration(days).build().unwrap(), "").unwrap().removes);
        let tag = Tag::builder().key("k").value("v").build().unwrap();
        let all = LifecycleRuleAndOperator::builder().prefix("p/").tags(tag).build();
        let filter = LifecycleRuleFilter::builder().and(all).build();
        let to = Transition::builder().storage_class(TransitionStorageClass::Glacier).build();
        let moves = rule("").filter(filter).transitions(to).build().unwrap();
        let found = read(&moves, "p/").unwrap();
        assert_eq!(found.tags, [("k".to_owned(), "v".to_owned())]);
        assert_eq!((found.moves_to, found.removes), (vec![StorageClass::Glacier], false));
        assert_eq!(found.prefix, "");
        assert_eq!(read(&moves, "q/"), None);
    }
}
