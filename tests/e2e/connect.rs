//! Clients find the servers: from the client VM, and from the hypervisor.

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use postgres::{Client, Config, config::SslMode};
use postgres_openssl::MakeTlsConnector;

use crate::{
    command::{Output, Program},
    suite::{Lab, MAIN, Suite},
};

/// A transaction over two tables, as pgbench runs it: whatever happens, the sums of both have to be equal.
const TRANSFER: &str = "\\set item random(1, 8)
begin;
insert into movement (item, quantity) values (:item, 3);
update stock set quantity = quantity + 3 where item = :item;
commit;
";

/// Runs SQL in a session of the client VM through a service.
fn on_client(lab: &Lab, service: &str, sql: &str) -> Result<String> {
    lab.exec("client", &format!("psql -XAtqw -v ON_ERROR_STOP=1 'service={service}' <<'SQL'\n{sql}\nSQL"))
}

/// `service=lab-rw` leads to the primary and `service=lab-ro` to the standby.
pub fn services_on_the_client(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let rw = on_client(&lab, "lab-rw", "select pg_is_in_recovery(), current_database(), current_user;")?;
    ensure!(
        rw == "f|wms|wms",
        "expected the primary, database and owner of the topology through lab-rw, got {rw:?}"
    );
    let ro = on_client(&lab, "lab-ro", "select pg_is_in_recovery(), current_database();")?;
    ensure!(ro == "t|wms", "expected the standby through lab-ro, got {ro:?}");
    let admin = on_client(&lab, "lab-admin", "select pg_is_in_recovery(), current_user;")?;
    ensure!(admin == "f|postgres", "expected the superuser through lab-admin, got {admin:?}");
    let by_verb = lab.pgprov("psql", ["client", "--", "-XAtqc", "select current_user"]).ok()?;
    by_verb.prints("wms").map(drop)
}

/// Two tables, six sessions, transactions that would disagree if one was half done: on both servers all agree.
pub fn concurrent_transactions(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    on_client(
        &lab,
        "lab-rw",
        "drop table if exists movement, stock;
         create table stock (item int primary key, quantity int not null default 0);
         create table movement (id bigint generated always as identity primary key,
           item int not null references stock, quantity int not null, at timestamptz not null default now());
         insert into stock select generate_series(1, 8);",
    )?;
    let bench = format!(
        "cat >/tmp/transfer.sql <<'END'\n{TRANSFER}END\n\
         PGSERVICE=lab-rw pgbench --no-vacuum --client=6 --transactions=25 --file=/tmp/transfer.sql wms 2>&1"
    );
    let report = lab.exec("client", &bench)?;
    ensure!(report.contains("150/150"), "expected 150 of 150 transactions in\n{report}");
    let sums = "select (select sum(quantity) from stock), (select sum(quantity) from movement), \
                (select count(*) from movement)";
    let on_m = on_client(&lab, "lab-rw", &format!("{sums};"))?;
    ensure!(on_m == "450|450|150", "expected 450|450|150 on m, got {on_m:?}");
    // The owner's tables are in the lab's database; the standby shows them to the same user.
    for _ in 0..50 {
        if on_client(&lab, "lab-ro", &format!("{sums};"))? == on_m {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(200));
    }
    let on_s = on_client(&lab, "lab-ro", &format!("{sums};"))?;
    ensure!(on_s == on_m, "expected {on_m} on s too, got {on_s:?}");
    Ok(())
}

/// Sessions are encrypted, passwords are SCRAM, and neither can be done without.
pub fn tls_and_scram_only(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let tls =
        on_client(&lab, "lab-rw", "select ssl, version from pg_stat_ssl where pid = pg_backend_pid();")?;
    ensure!(tls == "t|TLSv1.3", "expected an encrypted session, got {tls:?}");
    let streaming =
        lab.psql("m", "select bool_and(ssl) from pg_stat_replication join pg_stat_ssl using (pid)")?;
    ensure!(streaming == "t", "expected encrypted replication, got {streaming:?}");
    let refused = |command: &str, reason: &str| -> Result<()> {
        let output = lab.pgprov("exec", ["--host", "client", "--", command]).run()?;
        ensure!(output.code == Some(1), "expected a failure of\n{output}");
        output.says(reason).map(drop)
    };
    refused("PGPASSWORD=wrong psql -w service=lab-rw -c 'select 1' 2>&1", "password authentication failed")?;
    refused("psql -w 'service=lab-rw sslmode=disable' -c 'select 1' 2>&1", "no encryption")?;
    refused(
        "psql -w 'service=lab-rw user=replicator dbname=postgres passfile=/dev/null' 2>&1",
        "no password supplied",
    )?;
    let other = lab.psql("m", "select count(*) from pg_authid where rolpassword !~ '^SCRAM-SHA-256\\$'")?;
    ensure!(other == "0", "expected SCRAM verifiers only, got {other} others");
    let rules = lab.psql("m", "select distinct auth_method from pg_hba_file_rules order by 1")?;
    ensure!(rules == "peer\nscram-sha-256", "expected peer and scram-sha-256 only, got {rules:?}");
    Ok(())
}

/// The value after `export PGSERVICEFILE=` in the lines that `up` prints to be copied.
fn service_file(made: &Output) -> Result<PathBuf> {
    let line = made.stdout.lines().find_map(|line| line.trim().strip_prefix("export PGSERVICEFILE="));
    Ok(PathBuf::from(line.with_context(|| format!("expected a line with PGSERVICEFILE in\n{made}"))?))
}

/// The lines that `up` prints work as they stand: psql on the hypervisor reaches both servers.
pub fn psql_on_the_hypervisor(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let file = service_file(&lab.made)?;
    for (service, recovery) in [("lab-rw", "f"), ("lab-ro", "t")] {
        let sql = "select pg_is_in_recovery(), ssl from pg_stat_ssl where pid = pg_backend_pid()";
        let psql =
            Program::new("psql").without(&["PGPASSWORD", "PGHOST", "PGUSER"]).env("PGSERVICEFILE", &file);
        let output = psql.args(["-XAtqw", &format!("service={service}"), "-c", sql]).ok()?;
        output.prints(&format!("{recovery}|t"))?;
    }
    Ok(())
}

/// A program with a PostgreSQL driver connects too, and checks the server's certificate and name.
pub fn program_on_the_hypervisor(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let service = fs::read_to_string(service_file(&lab.made)?)?;
    let section =
        service.split("[lab-rw]").nth(1).and_then(|rest| rest.split("\n[").next()).unwrap_or_default();
    let value = |key: &str| {
        let line = section.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(str::to_owned).with_context(|| format!("expected {key} in section lab-rw of\n{service}"))
    };
    let pgpass = fs::read_to_string(value("passfile")?)?;
    let password = pgpass.lines().find_map(|line| line.strip_prefix("*:*:*:wms:"));
    let password = password.context("expected a line of user wms in the password file")?;
    let root = value("sslrootcert")?;
    let (hosts, addresses) = (value("host")?, value("hostaddr")?);
    let connect = |host: &str, address: &str, root: Option<&str>| -> Result<Client> {
        let mut tls = SslConnector::builder(SslMethod::tls())?;
        if let Some(root) = root {
            tls.set_ca_file(root)?;
        }
        tls.set_verify(SslVerifyMode::PEER);
        let mut config = Config::new();
        config.host(host).hostaddr(address.parse()?).user("wms").password(password).dbname("wms");
        config.ssl_mode(SslMode::Require).connect_timeout(Duration::from_secs(10));
        Ok(config.connect(MakeTlsConnector::new(tls.build()))?)
    };
    let mut primaries = 0;
    for (host, address) in hosts.split(',').zip(addresses.split(',')) {
        let mut client = connect(host, address, Some(&root))?;
        let row = client.query_one("select pg_is_in_recovery(), count(*) from pg_stat_activity", &[])?;
        primaries += usize::from(!row.get::<_, bool>(0));
        let wrong = connect("elsewhere", address, Some(&root));
        ensure!(wrong.is_err(), "expected the certificate of {host} to be refused for another name");
        ensure!(
            connect(host, address, None).is_err(),
            "expected {host} to be refused without the lab's authority"
        );
    }
    ensure!(primaries == 1, "expected one primary among {hosts}, found {primaries}");
    Ok(())
}
