//! A lab that starts from a cloud image somebody else made, and installs its packages at `up`.
//!
//! `scripts/stock-image` makes such an image and a signed apt repository before, where packages can be had; here the
//! repository is served over HTTP, which is all the internet that the hosts have.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use percent_encoding::percent_decode_str;

use crate::{
    command::Program,
    neighbours::nothing_left,
    suite::{Lab, Suite},
};

/// Seconds that `up` may take: packages are installed on emulated machines, on one after the other.
const LIMIT: u64 = 900;

/// The image is verified, boots by its boot loader, and becomes a primary and a standby.
pub fn installs_packages_at_up(suite: &Suite) -> Result<()> {
    let folder = env::var_os("PGPROV_STOCK").context("PGPROV_STOCK is not set: run `scripts/stock-image`")?;
    let folder = PathBuf::from(folder);
    let port = serve(folder.join("apt"))?;
    let disk = folder.join("disk.qcow2");
    let sum = Program::new("sha256sum").args([&disk]).ok()?.text()[..64].to_owned();
    let key = fs::read_to_string(folder.join("key.asc"))?;
    let key: String = key.lines().map(|line| format!("    {line}\n")).collect();
    let topology = |sum: &str| {
        format!(
            "lab: stock
image:
  url: file://{}
  sha256: {sum}
  mirror: http://10.79.79.1:{port}
  mirror_key: |
{key}management_network: 10.79.79.0/24
hosts:
  m: {{ roles: [postgres] }}
  s: {{ roles: [postgres], follows: m }}
",
            disk.display()
        )
    };

    let before = suite.everything()?;
    let wrong = suite.file("stock-wrong.yaml", &topology(&"a".repeat(64)))?;
    let refused = suite.pgprov(["up"]).args([&wrong]).limit(120).run()?.exits(1)?;
    refused.says(&format!("refused file://{}: its sha256 is {sum}", disk.display()))?;
    ensure!(suite.everything()? == before, "expected no change by a refused image");

    let file = suite.file("stock.yaml", &topology(&sum))?;
    let made = suite.pgprov(["up"]).args([&file]).limit(LIMIT).ok()?;
    let lab = Lab { suite, name: "stock", file, made };
    lab.streams("m", "s", "from a stock image")?;
    lab.is_as_its_topology_says()?;
    lab.up(&lab.file)?.exits(0)?.says("0 changes")?;
    let clusters =
        lab.exec("m", "hostname; ls /var/lib/postgresql/17; cat /etc/postgresql-common/createcluster.conf")?;
    ensure!(
        clusters.starts_with("m\nmain\n") && clusters.ends_with("create_main_cluster = false"),
        "expected host m with one cluster, and that not by the package: {clusters}"
    );

    suite.pgprov(["destroy", "stock", "--yes"]).limit(120).ok()?;
    nothing_left(suite, "stock")?;
    suite.pgprov(["image", "remove", &format!("url-{}", &sum[..12])]).ok().map(drop)
}

/// Serves the files of a folder over HTTP for as long as this process lives; returns the port.
pub fn serve(folder: PathBuf) -> Result<u16> {
    ensure!(folder.is_dir(), "expected an apt repository in {}", folder.display());
    let listener = TcpListener::bind("0.0.0.0:0").context("cannot listen")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let folder = folder.clone();
            // A guest that goes away in the middle is its own problem.
            thread::spawn(move || drop(answer(&connection, &folder)));
        }
    });
    Ok(port)
}

fn answer(connection: &TcpStream, folder: &Path) -> Result<()> {
    let mut reader = BufReader::new(connection);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let path = request.split_whitespace().nth(1).unwrap_or_default();
    let path = percent_decode_str(path.trim_start_matches('/')).decode_utf8()?;
    let (status, body) = match fs::read(folder.join(path.as_ref())) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let mut connection = connection;
    write!(connection, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    Ok(connection.write_all(&body)?)
}
