//! The running server: where it is, what is stored, what was asked, what shall go wrong.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use s3s::S3Result;
use s3s::host::{MultiDomain, S3Host, VirtualHost};
use s3s::service::S3ServiceBuilder;
use tokio::sync::oneshot;

use super::access::Gate;
use super::accounts::Account;
use super::bucket::Bucket;
use super::builder::{OWNER, S3Builder};
use super::counters::Counters;
use super::fault::Fault;
use super::faults::{FaultOrder, Faults};
use super::front::Front;
use super::seen::DOMAIN;
use super::service::Service;
use super::thaw;
use super::transport::Transport;

/// Its own names, and `localhost` at any port: a proxy before it has one of its own.
struct Names(MultiDomain);

impl S3Host for Names {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        match host.strip_prefix("localhost") {
            Some(port) if port.is_empty() || port.starts_with(':') => Ok(VirtualHost::new(host)),
            _ => self.0.parse_host_header(host),
        }
    }
}

/// A server that lives as long as this value.
pub struct TestS3 {
    address: SocketAddr,
    service: Service,
    faults: Arc<Faults>,
    counters: Arc<Counters>,
    transport: Transport,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TestS3 {
    pub fn start() -> TestS3 {
        TestS3::builder().start()
    }

    pub fn builder() -> S3Builder {
        S3Builder::new()
    }

    pub(super) fn serving(builder: S3Builder) -> TestS3 {
        let service = Service {
            bucket_name: builder.bucket,
            region: builder.region.clone(),
            accounts: Arc::new(builder.accounts),
            bucket: Arc::new(Mutex::new(Bucket::new(builder.rules))),
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut stack = S3ServiceBuilder::new(service.clone());
        let own = [address.to_string(), format!("localhost:{}", address.port()), DOMAIN.to_owned()];
        stack.set_host(Names(MultiDomain::new(own).unwrap()));
        stack.set_auth(service.accounts.authentication());
        stack.set_access(Gate(Arc::clone(&service.accounts)));
        let (faults, counters) = (Arc::<Faults>::default(), Arc::<Counters>::default());
        let front = Front {
            service: stack.build(),
            faults: Arc::clone(&faults),
            counters: Arc::clone(&counters),
            region: builder.region,
            latency: builder.latency,
            rejects_checksums: builder.rejects_checksums,
        };
        let (stop, stopped) = oneshot::channel();
        let transport = Transport::new(builder.has_tls);
        let carrying = transport.clone();
        let thread = std::thread::spawn(move || serve(listener, front, carrying, stopped));
        let (stop, thread) = (Some(stop), Some(thread));
        TestS3 { address, service, faults, counters, transport, stop, thread }
    }

    pub fn endpoint(&self) -> String {
        match self.transport.certificate() {
            None => format!("http://{}", self.address),
            Some(_) => format!("https://localhost:{}", self.address.port()),
        }
    }

    /// What a client has to trust, as PEM, where there is TLS.
    pub fn certificate(&self) -> Option<&str> {
        self.transport.certificate()
    }

    /// From now on nothing moves on the connections that there are, and nobody hangs up: as when a load
    /// balancer has gone that knew of them. New ones are as ever.
    pub fn silence_connections(&self) {
        self.transport.silence();
    }

    pub fn bucket(&self) -> &str {
        &self.service.bucket_name
    }

    pub fn region(&self) -> &str {
        &self.service.region
    }

    pub fn access_key(&self) -> &str {
        &self.account(OWNER).access_key
    }

    pub fn secret_key(&self) -> &str {
        &self.account(OWNER).secret_key
    }

    /// The keys of an account; the one that may do everything is `owner`.
    pub fn account(&self, name: &str) -> &Account {
        self.service.accounts.find(name).expect("the builder was told of this account")
    }

    // What is stored, behind the back of S3.

    pub fn keys(&self) -> Vec<String> {
        self.service.bucket().current_keys()
    }

    /// The current body, whatever its storage class.
    pub fn body(&self, key: &str) -> Option<Bytes> {
        self.service.bucket().current(key).map(|object| object.body.clone())
    }

    pub fn storage_class(&self, key: &str) -> Option<String> {
        self.service.bucket().current(key).map(|object| object.storage_class.clone())
    }

    pub fn tags(&self, key: &str) -> Vec<(String, String)> {
        self.service.bucket().current(key).map(|object| object.tags.clone()).unwrap_or_default()
    }

    /// Changes a stored body; ETag, checksums and time stay, as with a disk that forgets.
    pub fn damage(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bucket = self.service.bucket();
        let object = bucket.find_mut(key, None).expect("there is an object to damage");
        let mut body = object.body.to_vec();
        change(&mut body);
        object.body = Bytes::from(body);
        bucket.note_shown(key);
    }

    /// Removes a key with all its versions, locked or not.
    pub fn lose(&self, key: &str) -> bool {
        self.service.bucket().lose(key)
    }

    /// The unfinished uploads: key and upload id.
    pub fn unfinished_uploads(&self) -> Vec<(String, String)> {
        let bucket = self.service.bucket();
        let listed = bucket.uploads.listed().into_iter();
        listed.map(|(id, upload)| (upload.key.clone(), id.clone())).collect()
    }

    // Time, which does not pass by itself.

    pub fn age_uploads(&self, by: Duration) {
        self.service.bucket().uploads.all_mut().for_each(|upload| upload.initiated -= by);
    }

    pub fn age_objects(&self, by: Duration) {
        let mut bucket = self.service.bucket();
        bucket.objects_mut().for_each(|(_, version)| version.modified -= by);
        bucket.current_keys().iter().for_each(|key| bucket.note_shown(key));
    }

    /// Sets the clock by which retention ends and thawed copies expire.
    pub fn advance_clock(&self, by: Duration) {
        self.service.bucket().ahead += by;
    }

    /// Ends all thaws under way; says how many there were.
    pub fn finish_thaws(&self) -> usize {
        thaw::finish(&mut self.service.bucket(), None)
    }

    pub fn finish_thaw(&self, key: &str) -> bool {
        thaw::finish(&mut self.service.bucket(), Some(key)) > 0
    }

    // What was asked.

    /// How many requests of an operation arrived, spoiled ones included.
    pub fn requests(&self, operation: &str) -> usize {
        self.counters.counts().requests.get(operation).copied().unwrap_or(0)
    }

    pub fn all_requests(&self) -> BTreeMap<&'static str, usize> {
        self.counters.counts().requests.clone()
    }

    /// How many connections were made; a client that keeps its own makes few.
    pub fn connections(&self) -> usize {
        self.counters.counts().connections
    }

    /// Bytes of bodies received and sent, as promised; of replies that a fault broke off, none.
    pub fn bytes(&self) -> (u64, u64) {
        let counts = self.counters.counts();
        (counts.bytes_in, counts.bytes_out)
    }

    /// Each request as `PutObject key`, in the order of arrival.
    pub fn log(&self) -> Vec<String> {
        self.counters.counts().log.clone()
    }

    pub fn reset_counts(&self) {
        self.counters.reset();
    }

    // What shall go wrong.

    pub fn fault(&self, fault: Fault) -> FaultOrder<'_> {
        self.faults.order(vec![fault])
    }

    pub fn faults(&self, choice: Vec<Fault>) -> FaultOrder<'_> {
        self.faults.order(choice)
    }

    pub fn clear_faults(&self) {
        self.faults.clear();
    }
}

impl Drop for TestS3 {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Until told to stop; then the connections end with the runtime, hanging ones too.
fn serve(
    listener: TcpListener,
    front: Front,
    transport: Transport,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        tokio::select! {
            () = accept(listener, front, transport) => {}
            _ = stopped => {}
        }
    });
}

async fn accept(listener: tokio::net::TcpListener, front: Front, transport: Transport) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        front.counters.note_connection();
        let (front, transport) = (front.clone(), transport.clone());
        tokio::spawn(async move {
            let Ok(stream) = transport.accept(stream).await else { return };
            let service = service_fn(move |request| front.clone().call(request));
            let builder = auto::Builder::new(TokioExecutor::new());
            // A client that hangs up, or is hung up on, is no event for the server.
            drop(builder.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}
