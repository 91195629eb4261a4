//! TLS to the server, by rustls, with libpq's words.
//!
//! - `sslmode=disable`: never. `prefer` (the default): if the server offers it, the certificate
//!   unchecked. `require`: always; the certificate unchecked, unless `sslrootcert` is given: then as
//!   `verify-ca`, which is libpq's rule too. `verify-ca`: the chain leads to a root of `sslrootcert`.
//!   `verify-full`: and the certificate carries the host's name. `allow` is taken for `prefer`.
//! - `sslrootcert`: a PEM file, or `system` for the operating system's roots. libpq's default file
//!   in the home directory is not looked for: both `verify` modes need the parameter.
//! - `sslcert` and `sslkey`: a certificate of the client and its key (PEM, without passphrase).
//!
//! A certificate that is itself in `sslrootcert` is trusted as it is, its dates unchecked: that is how
//! self-signed ones are used, which the library would refuse for being their own authority.
//!
//! "Unchecked" keeps a listener out and nobody else. Even then the handshake's signature is checked,
//! so that SCRAM's channel binding means what it says. Unlike libpq, `prefer` does not try again
//! without TLS when the handshake fails. X.509 version 1 certificates are refused.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::connect::TlsParameters;
use super::error::Error;

/// What the connection uses.
#[derive(Clone)]
pub(super) struct Tls {
    pub mode: SslMode,
    /// `None` never does TLS.
    pub connector: Option<MakeRustlsConnect>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("mode", &self.mode).finish()
    }
}

impl Tls {
    /// No TLS.
    pub(super) fn off() -> Self {
        Self { mode: SslMode::Disable, connector: None }
    }
}

/// How much of the server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Nothing,
    Chain,
    ChainAndName,
}

/// Reads the parameters and the files that they name.
pub(super) fn build(parameters: &TlsParameters) -> Result<Tls, Error> {
    let (mode, check) = match parameters.sslmode.as_deref() {
        Some("disable") => return Ok(Tls::off()),
        None | Some("prefer" | "allow") => (SslMode::Prefer, Check::Nothing),
        Some("require") if parameters.sslrootcert.is_none() => (SslMode::Require, Check::Nothing),
        Some("require" | "verify-ca") => (SslMode::Require, Check::Chain),
        Some("verify-full") => (SslMode::Require, Check::ChainAndName),
        Some(other) => {
            return Err(wrong(format!(
                "sslmode={other:?} is none of disable, prefer, require, verify-ca, verify-full"
            )));
        }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verifier(check, parameters, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match (&parameters.sslcert, &parameters.sslkey) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| wrong(format!("sslkey {key:?}: {error}")))?;
            builder
                .with_client_auth_cert(certificates(cert, "sslcert")?, key)
                .map_err(|error| wrong(format!("sslcert {cert:?}: {error}")))?
        }
        _ => return Err(wrong("sslcert and sslkey need each other".to_owned())),
    };
    // What PostgreSQL 17 demands for sslnegotiation=direct, and older servers ignore.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(Tls { mode, connector: Some(MakeRustlsConnect::new(config)) })
}

fn verifier(
    check: Check,
    parameters: &TlsParameters,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    let mut listed = Vec::new();
    match parameters.sslrootcert.as_deref() {
        _ if check == Check::Nothing => {}
        Some("system") => roots = system_roots()?,
        Some(path) => {
            listed = certificates(path, "sslrootcert")?;
            for certificate in &listed {
                roots
                    .add(certificate.clone())
                    .map_err(|error| wrong(format!("sslrootcert {path:?}: {error}")))?;
            }
        }
        None => {
            return Err(wrong(
                "sslmode=verify-ca and verify-full need sslrootcert (a PEM file, or \"system\")"
                    .to_owned(),
            ));
        }
    }
    Ok(Arc::new(Verifier { check, roots, listed, provider: Arc::clone(provider) }))
}

fn system_roots() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(wrong(format!(
            "sslrootcert=system: the operating system has no usable root certificate {}",
            reasons.join("; ")
        )));
    }
    Ok(roots)
}

fn certificates(path: &str, parameter: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let failed = |error: &dyn std::fmt::Display| wrong(format!("{parameter} {path:?}: {error}"));
    let found: Vec<_> = CertificateDer::pem_file_iter(Path::new(path))
        .map_err(|error| failed(&error))?
        .collect::<Result<_, _>>()
        .map_err(|error| failed(&error))?;
    match found.is_empty() {
        true => Err(failed(&"no certificate in it")),
        false => Ok(found),
    }
}

fn wrong(what: String) -> Error {
    Error::Options { what: format!("connection string: {what}") }
}

/// Checks as much of the certificate as `check` says, and always the handshake's signature.
#[derive(Debug)]
struct Verifier {
    check: Check,
    roots: RootCertStore,
    /// The certificates of `sslrootcert`; any of them may be the server's own.
    listed: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.check == Check::Nothing {
            return Ok(ServerCertVerified::assertion());
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        if !self.listed.iter().any(|listed| listed == end_entity) {
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &self.roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        if self.check == Check::ChainAndName {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(sslmode: Option<&str>, sslrootcert: Option<&str>) -> Result<SslMode, String> {
        build(&TlsParameters {
            sslmode: sslmode.map(str::to_owned),
            sslrootcert: sslrootcert.map(str::to_owned),
            ..TlsParameters::default()
        })
        .map(|tls| tls.mode)
        .map_err(|error| error.to_string())
    }

    #[test]
    fn modes_mean_what_libpq_means() {
        assert_eq!(mode(None, None), Ok(SslMode::Prefer));
        assert_eq!(mode(Some("disable"), None), Ok(SslMode::Disable));
        assert_eq!(mode(Some("require"), None), Ok(SslMode::Require));
        for wrong in ["verify-ca", "verify-full"] {
            let error = mode(Some(wrong), None).unwrap_err();
            assert!(error.contains("need sslrootcert"), "{error}");
        }
        for verifying in ["require", "verify-ca", "verify-full"] {
            let error = mode(Some(verifying), Some("/nonexistent/root.crt")).unwrap_err();
            assert!(error.contains("/nonexistent/root.crt"), "{error}");
        }
        assert!(mode(Some("sometimes"), None).is_err());
    }
}
