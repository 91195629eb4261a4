//! The SDK's client: connections, trust, credentials, and everything of the SDK's own that is switched off.

use std::sync::Arc;
use std::time::SystemTime;

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future::ProvideCredentials as ProvideFuture;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Credentials as SdkCredentials, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder as HttpBuilder, Connector};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::options::{AccessKeys, Checksums, Credentials, KeySource, S3Options};
use super::whole::WholeAnswers;
use crate::storage::{Error, Result};

/// Where AWS buckets are when nobody says otherwise, and what servers of other makers are told.
const REGION_DEFAULT: &str = "us-east-1";

/// The client, and the region that it signs for.
pub(super) async fn connect(options: &S3Options, location: &str) -> Result<(Client, String)> {
    // Where credentials come from has a retry policy of the SDK's: only requests to the bucket are tried again
    // by ours. And it may be behind TLS where the bucket is not.
    let secure = http_client(options, location, false)?;
    let http = match is_plain(options) {
        true => http_client(options, location, true)?,
        false => secure.clone(),
    };
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(secure)
        .timeout_config(timeouts(options))
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    // Named, it is not looked for: that may take a request to the instance's metadata service.
    let named = options.region.clone();
    let assumed = named.or_else(|| options.endpoint.is_some().then(|| REGION_DEFAULT.to_owned()));
    if let Some(region) = assumed {
        loader = loader.region(Region::new(region));
    }
    match &options.credentials {
        Credentials::Chain { profile: Some(profile) } => loader = loader.profile_name(profile),
        Credentials::Chain { profile: None } => {}
        Credentials::Fixed(keys) => loader = loader.credentials_provider(sdk_keys(keys, None)),
        Credentials::Source(source) => {
            loader = loader.credentials_provider(Reread(Arc::clone(source)));
        }
    }
    let shared = loader.load().await;
    let region = shared.region().map_or(REGION_DEFAULT, AsRef::as_ref).to_owned();
    let mut builder = aws_sdk_s3::config::Builder::from(&shared)
        .http_client(http)
        .retry_config(RetryConfig::disabled())
        .interceptor(WholeAnswers)
        .region(Region::new(region.clone()))
        .force_path_style(options.path_style)
        .request_checksum_calculation(match options.checksums {
            Checksums::WhenSupported => RequestChecksumCalculation::WhenSupported,
            Checksums::WhenRequired => RequestChecksumCalculation::WhenRequired,
        })
        // The MACs of what is stored say more; and a range has no checksum of its own.
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = &options.endpoint {
        builder = builder.endpoint_url(endpoint);
    }
    Ok((Client::from_conf(builder.build()), region))
}

/// The same client with no connection yet.
pub(super) fn reconnect(client: &Client, options: &S3Options, location: &str) -> Result<Client> {
    let http = http_client(options, location, is_plain(options))?;
    Ok(Client::from_conf(client.config().to_builder().http_client(http).build()))
}

fn is_plain(options: &S3Options) -> bool {
    options.endpoint.as_ref().is_some_and(|url| url.starts_with("http://"))
}

/// Keys that may be replaced while they are used: read for each request, which costs far less than it does.
#[derive(Debug)]
struct Reread(Arc<dyn KeySource>);

impl ProvideCredentials for Reread {
    fn provide_credentials<'a>(&'a self) -> ProvideFuture<'a>
    where
        Self: 'a,
    {
        let read = self.0.read().map_err(CredentialsError::provider_error);
        ProvideFuture::ready(read.map(|keys| sdk_keys(&keys, Some(SystemTime::UNIX_EPOCH))))
    }
}

fn sdk_keys(keys: &AccessKeys, until: Option<SystemTime>) -> SdkCredentials {
    let token = keys.session_token.as_ref().map(|token| token.expose().clone());
    let (access, secret) = (keys.access_key.expose().clone(), keys.secret_key.expose().clone());
    SdkCredentials::new(access, secret, token, until, "pgkeep")
}

fn timeouts(options: &S3Options) -> TimeoutConfig {
    // Silence is watched for in the bodies: a limit for a whole request would have to know the line.
    TimeoutConfig::builder().connect_timeout(options.connect_timeout).build()
}

fn http_client(options: &S3Options, location: &str, is_plain: bool) -> Result<SharedHttpClient> {
    if is_plain {
        return Ok(HttpBuilder::new().build_with_connector_fn(|settings, components| {
            let mut connector = Connector::builder().enable_tcp_nodelay(true);
            if let Some(settings) = settings {
                connector = connector.connector_settings(settings.clone());
            }
            connector.set_sleep_impl(components.and_then(|each| each.sleep_impl()));
            connector.proxy_config(ProxyConfig::from_env()).build_http()
        }));
    }
    let mut trusted = TrustStore::default();
    for certificate in certificates(options, location)? {
        trusted.add_pem_certificate(certificate);
    }
    let context = TlsContext::builder().with_trust_store(trusted).build();
    let context = context.map_err(|error| invalid(location, &error.to_string()))?;
    Ok(HttpBuilder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .tls_context(context.clone())
            .enable_tcp_nodelay(true);
        if let Some(settings) = settings {
            connector = connector.connector_settings(settings.clone());
        }
        connector.set_sleep_impl(components.and_then(|each| each.sleep_impl()));
        connector.proxy_config(ProxyConfig::from_env()).build()
    }))
}

/// The configured certificates, each in a PEM of its own: looked at here, because the connector panics at
/// what it cannot read.
fn certificates(options: &S3Options, location: &str) -> Result<Vec<Vec<u8>>> {
    use base64::Engine as _;
    let Some(pem) = &options.ca else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate
            .map_err(|error| invalid(location, &format!("ca_file is not PEM: {error}")))?;
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(certificate.clone())
            .map_err(|error| invalid(location, &format!("a certificate in ca_file: {error}")))?;
        let text = base64::engine::general_purpose::STANDARD.encode(&certificate);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        found.push(pem.into_bytes());
    }
    if found.is_empty() {
        return Err(invalid(location, "ca_file holds no certificate"));
    }
    Ok(found)
}

fn invalid(location: &str, why: &str) -> Error {
    let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, why.to_owned());
    Error::Io { operation: "open", key: location.to_owned(), source }
}
