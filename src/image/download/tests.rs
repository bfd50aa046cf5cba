use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

use super::*;
use crate::image::recipe::hex;

/// How a server behaves.
#[derive(Clone, Copy)]
struct Manners {
    /// Answers Range requests with the part asked for.
    ranges: bool,
    /// Closes the connection after so many bytes of a body, this often.
    cuts: (usize, usize),
}

const GOOD: Manners = Manners { ranges: true, cuts: (0, 0) };

/// Serves one file at every path; remembers the Range header of each request.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<Option<u64>>>>,
}

impl Server {
    fn new(content: Vec<u8>, manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/disk.img", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        // Ends with the test process: it waits for connections only.
        thread::spawn(move || {
            let mut cuts = manners.cuts.1;
            for stream in listener.incoming() {
                serve(stream.unwrap(), &content, manners, &mut cuts, &log);
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<Option<u64>> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(
    mut stream: TcpStream,
    content: &[u8],
    manners: Manners,
    cuts: &mut usize,
    log: &Mutex<Vec<Option<u64>>>,
) {
    let mut range = None;
    for line in BufReader::new(stream.try_clone().unwrap()).lines() {
        let line = line.unwrap().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("range: bytes=") {
            range = Some(value.trim_end_matches('-').parse::<u64>().unwrap());
        }
    }
    log.lock().unwrap().push(range);
    let begin = usize::try_from(range.filter(|_| manners.ranges).unwrap_or(0)).unwrap();
    let size = content.len();
    let body = content.get(begin..).unwrap_or_default();
    let status = match (manners.ranges, range) {
        (true, Some(_)) if begin >= size => {
            format!("416 Range Not Satisfiable\r\nContent-Range: bytes */{size}")
        }
        (true, Some(_)) => {
            format!("206 Partial Content\r\nContent-Range: bytes {begin}-{}/{size}", size - 1)
        }
        _ => "200 OK".to_owned(),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    let sent = if *cuts > 0 {
        *cuts -= 1;
        &body[..body.len().min(manners.cuts.0)]
    } else {
        body
    };
    // The client may have gone.
    let _ = stream.write_all(sent);
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn quiet(_: Progress) {}

/// A small qcow2 image, made by the program that labs use.
fn qcow2(dir: &Path, options: &[&str]) -> Vec<u8> {
    let path = dir.join("made.qcow2");
    let status = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .args(options)
        .arg(&path)
        .arg("64M")
        .status()
        .unwrap();
    assert!(status.success());
    fs::read(path).unwrap()
}

#[test]
fn a_qcow2_image_comes_by_http_and_is_found_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path().join("images"));
    let content = qcow2(dir.path(), &[]);
    let sum = sha256(&content);
    let server = Server::new(content, GOOD);
    let source = Source { url: &server.url, sha256: &sum.to_uppercase(), format: Format::Qcow2 };
    let last = std::cell::RefCell::new(None);
    let image = download(&cache, &source, &|step| {
        last.replace(Some(step));
    })
    .unwrap();
    assert_eq!(image.name, format!("url-{}", &sum[..12]));
    assert_eq!((image.virtual_size, image.kernel.is_none(), &image.sha256), (64 << 20, true, &sum));
    assert!(matches!(last.into_inner(), Some(Progress::Bytes { done, total }) if Some(done) == total));

    assert_eq!(cache.find_download(&sum), Some(image.clone()));
    assert_eq!(download(&cache, &source, &quiet).unwrap(), image);
    assert_eq!(server.asked(), [None], "the second call needs no server");
}

#[test]
fn a_cut_download_goes_on_where_it_was_cut() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path().join("images"));
    let content = qcow2(dir.path(), &[]);
    let sum = sha256(&content);
    let server = Server::new(content, Manners { cuts: (50_000, 2), ..GOOD });
    let source = Source { url: &server.url, sha256: &sum, format: Format::Qcow2 };
    download(&cache, &source, &quiet).unwrap();
    assert_eq!(server.asked(), [None, Some(50_000), Some(100_000)]);
}

#[test]
fn what_an_earlier_run_left_is_not_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    let content = qcow2(dir.path(), &[]);
    let (sum, size) = (sha256(&content), content.len() as u64);
    let part = dir.path().join(format!(".part-{}", download_name(&sum).unwrap()));
    for left in [1000, size] {
        fs::write(&part, &content[..usize::try_from(left).unwrap()]).unwrap();
        let server = Server::new(content.clone(), GOOD);
        let source = Source { url: &server.url, sha256: &sum, format: Format::Qcow2 };
        let image = download(&cache, &source, &quiet).unwrap();
        assert_eq!(server.asked(), [Some(left)]);
        cache.remove(&image.name).unwrap();
    }
}

#[test]
fn a_server_that_cannot_resume_sends_the_whole_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    let content = qcow2(dir.path(), &[]);
    let sum = sha256(&content);
    let server = Server::new(content, Manners { ranges: false, cuts: (50_000, 1) });
    let source = Source { url: &server.url, sha256: &sum, format: Format::Qcow2 };
    download(&cache, &source, &quiet).unwrap();
    assert_eq!(server.asked(), [None, Some(50_000)]);
}

#[test]
fn another_file_than_asked_for_is_refused_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    let server = Server::new(b"not the image".to_vec(), GOOD);
    let wanted = "0123456789abcdef".repeat(4);
    let source = Source { url: &server.url, sha256: &wanted, format: Format::Qcow2 };
    let error = download(&cache, &source, &quiet).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "refused {}: its sha256 is {}, the topology says {wanted}",
            server.url,
            sha256(b"not the image")
        )
    );
    assert_eq!(cache.list().unwrap(), []);
    assert!(!dir.path().join(format!(".part-{}", download_name(&wanted).unwrap())).exists());
}

#[test]
fn raw_images_from_a_file_become_qcow2() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path().join("images"));
    let mut content = vec![0; 4 << 20];
    content[1000] = 7;
    fs::write(dir.path().join("a disk.raw"), &content).unwrap();
    let url = format!("file://{}/a%20disk.raw", dir.path().display());
    let sum = sha256(&content);
    let source = Source { url: &url, sha256: &sum, format: Format::Raw };
    let image = download(&cache, &source, &quiet).unwrap();
    assert_eq!(image.virtual_size, 4 << 20);
    assert!(fs::read(&image.disk).unwrap().starts_with(b"QFI\xfb"));
    assert_eq!(cache.find_download(&sum), Some(image));
    assert!(dir.path().join("a disk.raw").exists());
}

#[test]
fn a_disk_that_refers_to_other_files_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path().join("images"));
    let data = format!("data_file={}/secret,data_file_raw=on", dir.path().display());
    let cases = [
        (qcow2(dir.path(), &["-u", "-b", "/etc/passwd", "-F", "raw"]), "refers to `/etc/passwd`"),
        (qcow2(dir.path(), &["-o", &data]), "refers to `"),
        (b"no disk at all".to_vec(), "it is no qcow2 image"),
    ];
    for (content, expected) in cases {
        let path = dir.path().join("served");
        fs::write(&path, &content).unwrap();
        let (url, sum) = (format!("file://{}", path.display()), sha256(&content));
        let source = Source { url: &url, sha256: &sum, format: Format::Qcow2 };
        let error = download(&cache, &source, &quiet).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(cache.list().unwrap(), []);
    }
}

#[test]
fn bad_addresses_and_sums_are_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    let sum = "0".repeat(64);
    let fails = |url: &str, sha256: &str| {
        download(&cache, &Source { url, sha256, format: Format::Raw }, &quiet).unwrap_err().to_string()
    };
    assert!(fails("http://127.0.0.1/x", "abc").contains("is not a sha256"));
    assert!(fails("ftp://127.0.0.1/x", &sum).contains("it must begin with http://"));
    assert!(fails("file://etc/passwd", &sum).contains("three slashes"));
    let missing = fails("file:///no/such/file", &sum);
    assert_eq!(missing, "cannot open /no/such/file");
}

#[test]
fn a_password_in_an_address_is_not_shown() {
    assert_eq!(without_password("https://me:secret@mirror.example/a@b"), "https://mirror.example/a@b");
    assert_eq!(without_password("https://mirror.example/a@b"), "https://mirror.example/a@b");
}
