//! Accounts: access keys, each with what it may do.

use std::collections::HashMap;
use std::sync::Arc;

use s3s::auth::SimpleAuth;
use s3s::{S3Result, s3_error};

/// The keys that a test hands to the code under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub access_key: String,
    pub secret_key: String,
}

/// What a policy is asked.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// As in Amazon's policies, such as `s3:PutObject`.
    pub action: &'a str,
    /// Of `s3:ListBucket` the prefix.
    pub key: &'a str,
    pub has_if_none_match: bool,
    /// Whether the request makes an object appear (`s3:ObjectCreationOperation`): creating an
    /// upload and sending parts are `s3:PutObject` too, cannot be conditional, and do not.
    pub is_creation: bool,
}

pub type Policy = Arc<dyn Fn(&Asked<'_>) -> bool + Send + Sync>;

#[derive(Clone, Default)]
pub struct Accounts {
    by_access_key: HashMap<String, (Account, Policy)>,
}

impl Accounts {
    pub fn add(&mut self, name: &str, policy: Policy) {
        let account = Account {
            access_key: format!("AK{}", name.to_ascii_uppercase()),
            secret_key: format!("{name}/secret+of/{name}"),
        };
        self.by_access_key.insert(account.access_key.clone(), (account, policy));
    }

    pub fn find(&self, name: &str) -> Option<&Account> {
        let key = format!("AK{}", name.to_ascii_uppercase());
        self.by_access_key.get(&key).map(|(account, _)| account)
    }

    pub fn authentication(&self) -> SimpleAuth {
        let mut auth = SimpleAuth::new();
        for (account, _) in self.by_access_key.values() {
            auth.register(account.access_key.clone(), account.secret_key.clone().into());
        }
        auth
    }

    pub fn is_allowed(&self, access_key: &str, asked: &Asked<'_>) -> bool {
        self.by_access_key.get(access_key).is_some_and(|(_, policy)| policy(asked))
    }

    pub fn check(&self, access_key: &str, asked: &Asked<'_>) -> S3Result<()> {
        match self.is_allowed(access_key, asked) {
            true => Ok(()),
            false => Err(s3_error!(AccessDenied, "not allowed: {}", asked.action)),
        }
    }
}
