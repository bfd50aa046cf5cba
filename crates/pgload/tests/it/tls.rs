//! Connections over TLS: what libpq's sslmodes accept, and what they refuse.

use std::{fs, path::Path, time::Duration};

use pgload::session::{Connector, Failure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use crate::{
    run::{closed, go, options, statement, workload},
    server::{Server, target, wait_for},
};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server whose certificate is for host `m`, which takes nothing but TLS and SCRAM; its authority and another one as
/// files, and a password file.
fn server() -> (Server, TempDir) {
    let (ours, other) = (authority(), authority());
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["m".to_owned()]).unwrap().signed_by(&key, &ours).unwrap();
    let hba = "local all postgres trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
    let server = Server::start_with(
        &["ssl = on", "ssl_cert_file = 'tls.crt'", "ssl_key_file = 'tls.key'"],
        &[("tls.crt", &certificate.pem()), ("tls.key", &key.serialize_pem()), ("pg_hba.conf", hba)],
    );
    let socket = format!("host={} port={} user=postgres dbname=postgres", server.path(""), server.port);
    crate::server::psql(&socket, "CREATE ROLE wms LOGIN PASSWORD 'correct horse'");
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in [
        ("ca.crt", ours.pem()),
        ("other.crt", other.pem()),
        ("pgpass", "*:*:*:wms:correct horse\n".to_owned()),
    ] {
        fs::write(dir.path().join(name), content).unwrap();
    }
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(dir.path().join("pgpass"), fs::Permissions::from_mode(0o600)).unwrap();
    (server, dir)
}

fn dsn(server: &Server, dir: &Path, more: &str) -> String {
    let more = more.replace("DIR", &dir.display().to_string());
    format!(
        "hostaddr=127.0.0.1 port={} user=wms dbname=postgres passfile={}/pgpass {more}",
        server.port,
        dir.display()
    )
}

/// Whether the session is encrypted, or why there is none.
fn connect(dsn: &str) -> Result<bool, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connector = Connector::new(target(dsn), String::new()).map_err(Failure::connection)?;
        let session = connector.connect().await?;
        let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        Ok(session.client.query_one(sql, &[]).await?.get(0))
    })
}

#[test]
fn certificates_and_names_are_checked_as_the_mode_says() {
    let (server, dir) = server();
    for accepted in [
        "host=m sslmode=verify-full sslrootcert=DIR/ca.crt",
        "host=elsewhere sslmode=verify-ca sslrootcert=DIR/ca.crt",
        "host=elsewhere sslmode=require",
        "host=m sslmode=require sslrootcert=DIR/ca.crt",
        "host=elsewhere sslmode=prefer",
    ] {
        assert_eq!(connect(&dsn(&server, dir.path(), accepted)), Ok(true), "{accepted}");
    }
    for (refused, reason) in [
        ("host=elsewhere sslmode=verify-full sslrootcert=DIR/ca.crt", "not valid for name"),
        ("host=127.0.0.1 sslmode=verify-full sslrootcert=DIR/ca.crt", "not valid for name"),
        ("host=m sslmode=verify-full sslrootcert=DIR/other.crt", "invalid peer certificate"),
        ("host=m sslmode=verify-ca sslrootcert=DIR/other.crt", "invalid peer certificate"),
        // As libpq: an authority that is given is not ignored.
        ("host=m sslmode=require sslrootcert=DIR/other.crt", "invalid peer certificate"),
        ("host=m sslmode=verify-full sslrootcert=DIR/missing.crt", "cannot read certificates from"),
        ("host=m sslmode=verify-full sslrootcert=DIR/pgpass", "sslrootcert"),
        ("host=m sslmode=disable", "no encryption"),
        (
            "host=m sslmode=verify-full sslrootcert=DIR/ca.crt password=wrong",
            "password authentication failed",
        ),
    ] {
        let failure = connect(&dsn(&server, dir.path(), refused)).unwrap_err();
        assert!(failure.message.contains(reason), "{refused}: {failure}");
    }
}

#[test]
fn the_host_whose_certificate_fits_is_found() {
    let (server, dir) = server();
    let both = dsn(&server, dir.path(), "host=elsewhere,m sslmode=verify-full sslrootcert=DIR/ca.crt")
        .replace("hostaddr=127.0.0.1", "hostaddr=127.0.0.1,127.0.0.1");
    assert_eq!(connect(&both), Ok(true));
}

/// A request to cancel goes over TLS, too: a server that takes nothing else would not see it.
#[test]
fn a_statement_that_takes_too_long_is_cancelled_over_tls() {
    let (server, dir) = server();
    let dsn = dsn(&server, dir.path(), "host=m sslmode=verify-full sslrootcert=DIR/ca.crt");
    let workload = workload("statements: { sleep: { kind: read, sql: SELECT pg_sleep(60) } }");
    let mut options = options(closed(1), Duration::from_secs(60));
    (options.statements, options.tries, options.deadline) = (Some(1), 1, Duration::from_millis(500));
    let results = go(&dsn, &workload, &options);
    assert_eq!(statement(&results, "sleep").counts.aborted, 1, "{:?}", results.errors);
    assert_eq!(results.errors[0].code, "deadline");
    let socket = format!("host={} port={} user=postgres dbname=postgres", server.path(""), server.port);
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    wait_for("the server to be done with it", || crate::server::psql(&socket, asleep) == "0");
}
