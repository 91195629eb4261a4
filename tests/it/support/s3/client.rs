//! A plain client for a test's own questions: no retries, nothing of pgkeep's.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{Builder, Credentials, Region};

use super::accounts::Account;
use super::server::TestS3;

impl TestS3 {
    /// As the account that may do everything.
    pub fn client(&self) -> Client {
        self.client_of("owner")
    }

    pub fn client_of(&self, account: &str) -> Client {
        Client::from_conf(self.client_config(self.account(account)).build())
    }

    pub fn client_config(&self, account: &Account) -> Builder {
        let Account { access_key, secret_key } = account;
        aws_sdk_s3::Config::builder()
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .endpoint_url(self.endpoint())
            .region(Region::new(self.region().to_owned()))
            .credentials_provider(Credentials::new(access_key, secret_key, None, None, "test"))
            .force_path_style(true)
            .retry_config(RetryConfig::disabled())
    }
}
