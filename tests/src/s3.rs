//! An S3 server for tests: Ceph's radosgw, which `tests/s3/start` runs.
//!
//! All test processes share one. It is started by the first that asks for it and ends by itself some seconds after
//! the last, also when that was killed: each holds a lock on a file for as long as it lives.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use crate::program::{target_dir, workspace};

/// A bound against hanging: it takes three seconds.
const START_LIMIT: Duration = Duration::from_secs(300);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A server with a bucket.
#[derive(Debug)]
pub struct Server {
    /// Its address.
    pub address: SocketAddr,
    /// The bucket that is there.
    pub bucket: String,
    variables: Vec<(String, String)>,
    /// What tells the server that it is used.
    _used: File,
}

impl Server {
    /// The server that all tests share.
    #[track_caller]
    pub fn shared() -> &'static Server {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| join_or_start(&target_dir().join("s3-server")))
    }

    /// The variables by which a client finds the server at `address`, itself or a proxy of it.
    pub fn variables(&self, address: SocketAddr) -> Vec<(String, String)> {
        let mut variables = self.variables.clone();
        for (name, value) in &mut variables {
            if name == "AWS_ENDPOINT_URL" {
                *value = format!("http://{address}");
            }
        }
        variables
    }
}

fn join_or_start(folder: &Path) -> Server {
    fs::create_dir_all(folder).expect("a folder for the S3 server");
    let open =
        |name: &str| File::options().append(true).create(true).open(folder.join(name)).expect("a file");
    let (users, variables, said) = (folder.join("users"), folder.join("variables"), folder.join("said"));
    // One at a time looks whether it is there.
    let looking = open("looking");
    looking.lock().expect("a lock");
    // A server that is about to end holds this until it has.
    let used = open("users");
    used.lock_shared().expect("a lock");
    if let Some((address, bucket, variables)) = running(&variables) {
        return Server { address, bucket, variables, _used: used };
    }
    let mut script = Command::new(workspace().join("tests/s3/start"))
        .arg("--users")
        .arg(&users)
        .stdin(Stdio::null())
        .stdout(File::create(&variables).expect("a file"))
        .stderr(File::create(&said).expect("a file"))
        // What ends this test is not to end others' server.
        .process_group(0)
        .spawn()
        .expect("tests/s3/start can be run");
    // It lives longer than this test, unless it fails.
    let ended = thread::spawn(move || script.wait());
    let began = Instant::now();
    loop {
        if let Some((address, bucket, variables)) = running(&variables) {
            return Server { address, bucket, variables, _used: used };
        }
        let said = || fs::read_to_string(&said).unwrap_or_default();
        assert!(!ended.is_finished(), "no S3 server: {}", said());
        assert!(began.elapsed() < START_LIMIT, "the S3 server does not start: {}", said());
        thread::sleep(Duration::from_millis(50));
    }
}

type Found = (SocketAddr, String, Vec<(String, String)>);

/// What the script has printed, if what it tells of answers.
fn running(variables: &Path) -> Option<Found> {
    let text = fs::read_to_string(variables).ok()?;
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let (bucket, variables): (Vec<_>, Vec<_>) = lines
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .partition(|(name, _)| name == "BUCKET");
    let endpoint = &variables.iter().find(|(name, _)| name == "AWS_ENDPOINT_URL")?.1;
    let address = endpoint.strip_prefix("http://")?.parse().ok()?;
    TcpStream::connect_timeout(&address, CONNECT_LIMIT).ok()?;
    Some((address, bucket.into_iter().next()?.1, variables))
}
