//! TLS before a server that has none: Debian's stunnel with a certificate of its own.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::cluster::said;
use super::folder::Folder;
use super::installed;

/// A proxy, stopped when dropped.
pub struct Proxy {
    child: Child,
    pub port: u16,
    /// What it shows, which clients have to trust.
    pub certificate: PathBuf,
}

impl Proxy {
    /// `None` where stunnel or openssl is not installed.
    pub fn start(folder: &Folder, endpoint: &str) -> Option<Self> {
        let stunnel = installed("stunnel4")?;
        let openssl = installed("openssl")?;
        let (key, certificate) = (folder.join("proxy.key"), folder.join("proxy.pem"));
        let mut make = folder.command(openssl);
        make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        make.args(["-nodes", "-days", "3650", "-subj", "/CN=localhost"]);
        make.args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]);
        make.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        said(make.arg("-keyout").arg(&key).arg("-out").arg(&certificate));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let to = endpoint.trim_start_matches("http://");
        let text = format!(
            "foreground = yes\npid =\ndebug = 3\n[s3]\naccept = 127.0.0.1:{port}\nconnect = {to}\n\
             cert = {}\nkey = {}\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n",
            certificate.display(),
            key.display()
        );
        let config = folder.write("proxy.conf", &text);
        let mut command: Command = folder.command(stunnel);
        let child =
            command.arg(config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let proxy = Self { child, port, certificate };
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Some(proxy)
    }

    pub fn endpoint(&self) -> String {
        format!("https://localhost:{}", self.port)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
