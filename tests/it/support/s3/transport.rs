//! What carries requests: TCP or TLS, and connections that fall silent on order.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

#[derive(Clone)]
pub struct Transport {
    tls: Option<(TlsAcceptor, String)>,
    silences: Arc<AtomicUsize>,
}

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Transport {
    pub fn new(has_tls: bool) -> Self {
        Self { tls: has_tls.then(acceptor), silences: Arc::default() }
    }

    pub fn certificate(&self) -> Option<&str> {
        self.tls.as_ref().map(|(_, certificate)| certificate.as_str())
    }

    pub fn silence(&self) {
        self.silences.fetch_add(1, Ordering::SeqCst);
    }

    pub async fn accept(&self, inner: TcpStream) -> io::Result<Box<dyn Stream>> {
        let silences = Arc::clone(&self.silences);
        let stream = Silenced { inner, born: silences.load(Ordering::SeqCst), silences };
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some((acceptor, _)) => Ok(Box::new(acceptor.accept(stream).await?)),
        }
    }
}

fn acceptor() -> (TlsAcceptor, String) {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let own = rcgen::generate_simple_self_signed(names).unwrap();
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key);
    let mut config = config.unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (TlsAcceptor::from(Arc::new(config)), own.cert.pem())
}

/// A connection on which nothing moves any more once silence was ordered.
struct Silenced {
    inner: TcpStream,
    born: usize,
    silences: Arc<AtomicUsize>,
}

impl Silenced {
    fn is_silent(&self) -> bool {
        self.silences.load(Ordering::SeqCst) != self.born
    }
}

impl AsyncRead for Silenced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_silent() {
            return Poll::Pending;
        }
        let filled = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        // Silence that was ordered while this was waited for: what came is not told.
        if self.is_silent() {
            buffer.set_filled(filled);
            return Poll::Pending;
        }
        polled
    }
}

impl AsyncWrite for Silenced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.is_silent() {
            true => Poll::Pending,
            false => Pin::new(&mut self.inner).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.is_silent() {
            true => Poll::Pending,
            false => Pin::new(&mut self.inner).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.is_silent() {
            true => Poll::Pending,
            false => Pin::new(&mut self.inner).poll_shutdown(context),
        }
    }
}
