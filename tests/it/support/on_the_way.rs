//! What stands on the way to a bucket: services that hand out credentials, and a proxy. Each speaks the least
//! of HTTP that its clients need, one request a connection.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// What was asked: `GET /path` and the body.
type Answer = dyn Fn(&str, &str) -> (u16, String) + Send + Sync;

/// A server of a few fixed answers.
pub struct Answering {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Answering {
    /// With `answer` as what is said to a request line and a body: status and body.
    pub fn start(answer: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, stop) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default());
        let (noted, stopped) = (Arc::clone(&asked), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                // Who hangs up is no event.
                stream.and_then(|stream| serve(stream, &noted, &answer)).ok();
            }
        });
        Self { address, asked, stop, thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far, as `GET /path`.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes it.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn serve(stream: TcpStream, asked: &Mutex<Vec<String>>, answer: &Answer) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (line, length) = head(&mut reader)?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let request = line.rsplit_once(' ').map_or("", |(request, _)| request);
    asked.lock().unwrap().push(request.to_owned());
    let (status, text) = answer(request, &String::from_utf8_lossy(&body));
    // The lifetime is what the instance's service says of its tokens.
    write!(
        reader.get_mut(),
        "HTTP/1.1 {status} .\r\ncontent-length: {}\r\nconnection: close\r\n\
         x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n\r\n{text}",
        text.len()
    )
}

/// The first line, and how long the body is.
fn head(reader: &mut BufReader<TcpStream>) -> std::io::Result<(String, usize)> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let length = lines.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    Ok((lines.into_iter().next().unwrap_or_default(), length.unwrap_or(0)))
}

/// A proxy that makes tunnels.
pub struct Tunnels {
    address: SocketAddr,
    made: Arc<AtomicUsize>,
}

impl Tunnels {
    /// It lives as long as the test process.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let made = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&made);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let count = Arc::clone(&count);
                std::thread::spawn(move || tunnel(stream, &count).ok());
            }
        });
        Self { address, made }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }
}

fn tunnel(stream: TcpStream, made: &AtomicUsize) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (line, _) = head(&mut reader)?;
    let to = line.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    let Some(to) = to else {
        return reader.get_mut().write_all(b"HTTP/1.1 405 .\r\ncontent-length: 0\r\n\r\n");
    };
    let mut server = TcpStream::connect(to)?;
    made.fetch_add(1, Ordering::SeqCst);
    let mut client = reader.into_inner();
    client.write_all(b"HTTP/1.1 200 .\r\n\r\n")?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
    std::io::copy(&mut server, &mut client).map(drop)
}
