use super::*;

#[test]
fn every_row_of_every_table_is_read() {
    let tables = [
        (12, include_str!("../../data/guc/pg12.psv")),
        (13, include_str!("../../data/guc/pg13.psv")),
        (14, include_str!("../../data/guc/pg14.psv")),
        (15, include_str!("../../data/guc/pg15.psv")),
        (16, include_str!("../../data/guc/pg16.psv")),
        (17, include_str!("../../data/guc/pg17.psv")),
        (18, include_str!("../../data/guc/pg18.psv")),
    ];
    assert_eq!(versions().collect::<Vec<_>>(), tables.map(|(version, _)| version));
    for (version, table) in tables {
        let catalogue = catalogue(version).unwrap();
        assert_eq!(catalogue.len(), table.lines().count() - 1, "{version}");
        for setting in catalogue.values() {
            assert_eq!(
                setting.unit.is_some(),
                value::units(setting).is_some(),
                "{version}: {}",
                setting.name
            );
            assert_eq!(setting.kind == Kind::Enum, !setting.values.is_empty(), "{version}: {}", setting.name);
        }
    }
    assert_eq!(REFUSED.len(), include_str!("../../data/refused.psv").lines().count() - 1);
    assert_eq!(RENAMED.len(), include_str!("../../data/renamed.psv").lines().count() - 1);
}

#[test]
fn every_default_is_a_valid_value() {
    let tables =
        [(12, include_str!("../../data/guc/pg12.psv")), (17, include_str!("../../data/guc/pg17.psv"))];
    for (version, table) in tables {
        for [name, context, _, _, boot, ..] in rows::<8>(table) {
            // Values that the server finds out at its start have a marker as default.
            if context == "internal"
                || matches!((name, boot), (_, "") | ("unix_socket_permissions" | "log_file_mode", _))
            {
                continue;
            }
            let setting = lookup(version, name).unwrap();
            assert_eq!(check_value(setting, boot), Ok(()), "{version}: {name} = {boot}");
        }
    }
}

#[test]
fn names_that_are_gone_are_gone() {
    for (name, (gone, _)) in RENAMED.iter() {
        let gone: f64 = gone.parse().unwrap();
        for version in versions() {
            assert_eq!(
                lookup(version, name).is_some(),
                f64::from(version) < gone && gone > 12.0,
                "{name} {version}"
            );
        }
    }
    // Each name that a version dropped has a row.
    for (old, new) in versions().zip(versions().skip(1)) {
        for name in catalogue(old).unwrap().keys().filter(|name| lookup(new, name).is_none()) {
            assert!(RENAMED.contains_key(name.as_str()), "{name} is gone in {new}");
        }
    }
}

/// Setting of PostgreSQL 17, value, and the message (empty: accepted).
#[test]
fn values_are_checked_as_the_server_does() {
    let memory = "(allowed: B, kB, MB, GB, TB)";
    let time = "(allowed: us, ms, s, min, h, d)";
    for (name, text, expected) in [
        ("fsync", "on", String::new()),
        ("fsync", "TR", String::new()),
        ("fsync", "0", String::new()),
        ("fsync", "o", "`o` is not a boolean: write on or off".into()),
        ("fsync", "", "`` is not a boolean: write on or off".into()),
        ("max_connections", "100", String::new()),
        ("max_connections", "0x64", String::new()),
        ("max_connections", "0144", String::new()),
        ("max_connections", "1e2", String::new()),
        ("max_connections", "99.6", String::new()),
        ("max_connections", "08", "`08` is not a whole number".into()),
        ("max_connections", "ten", "`ten` is not a whole number".into()),
        ("max_connections", "100MB", "`max_connections` takes no unit".into()),
        ("max_connections", "0", "`0` is outside the range of `max_connections`: 1 .. 262143".into()),
        ("max_connections", "-5", "`-5` is outside the range of `max_connections`: 1 .. 262143".into()),
        ("shared_buffers", "128MB", String::new()),
        ("shared_buffers", " 128 MB ", String::new()),
        ("shared_buffers", "16384", String::new()),
        ("shared_buffers", "0.25GB", String::new()),
        ("shared_buffers", "131072B", String::new()),
        ("shared_buffers", "1mb", format!("`mb` is not a unit, did you mean `MB`? {memory}")),
        ("shared_buffers", "1GiB", format!("`GiB` is not a unit of `shared_buffers` {memory}")),
        ("shared_buffers", "lots", format!("`lots` is not a whole number with a unit {memory}")),
        ("shared_buffers", "8kB", "`8kB` is outside the range of `shared_buffers`: 128kB .. 8589934584kB".into()),
        ("work_mem", "3TB", "`3TB` is outside the range of `work_mem`: 64kB .. 2147483647kB".into()),
        ("log_min_duration_statement", "1s", String::new()),
        ("log_min_duration_statement", "-1", String::new()),
        ("log_min_duration_statement", "1 sec", format!("`sec` is not a unit of `log_min_duration_statement` {time}")),
        ("log_rotation_age", "1d", String::new()),
        ("wal_receiver_timeout", "0.5min", String::new()),
        ("vacuum_cost_delay", "200us", String::new()),
        ("random_page_cost", "1.1", String::new()),
        ("random_page_cost", "1e400", "`1e400` is outside the range of `random_page_cost`: 0 .. 1.79769e308".into()),
        ("random_page_cost", "0x10", "`0x10` is not a number".into()),
        ("checkpoint_completion_target", "1.1", "`1.1` is outside the range of `checkpoint_completion_target`: 0 .. 1".into()),
        ("wal_level", "Logical", String::new()),
        ("wal_level", "hot_standby", String::new()),
        ("wal_compression", "zstd", String::new()),
        ("synchronous_commit", "yes", String::new()),
        (
            "wal_level",
            "logica",
            "`logica` is not a value of `wal_level`, did you mean `logical`? (allowed: minimal, replica, logical)".into(),
        ),
        ("default_transaction_isolation", "repeatable read", String::new()),
        ("ssl_max_protocol_version", "", String::new()),
        ("datestyle", "ISO, DMY", String::new()),
        ("search_path", "a\nb", "a value must be on one line without control characters, found U+000A".into()),
    ] {
        let setting = lookup(17, name).unwrap();
        assert_eq!(check_value(setting, text).err().unwrap_or_default(), expected, "{name} = {text}");
    }
}

/// Version, name, message and hints.
#[test]
fn names_are_explained() {
    for (version, name, expected) in [
        (
            17,
            "wal_keep_segments",
            "`wal_keep_segments` is gone since PostgreSQL 13 | use wal_keep_size, in MB (a segment was 16MB)",
        ),
        (17, "checkpoint_segments", "`checkpoint_segments` is gone since PostgreSQL 9.5 | use max_wal_size"),
        (15, "stats_temp_directory", "`stats_temp_directory` is gone since PostgreSQL 15 | remove it"),
        (15, "force_parallel_mode", ""),
        (
            17,
            "io_method",
            "`io_method` exists from PostgreSQL 18 on; this lab has 17 | remove it, or take an image with a later PostgreSQL",
        ),
        (
            17,
            "max_conections",
            "unknown PostgreSQL setting `max_conections` | did you mean `max_connections`?",
        ),
        (17, "WORK_MEM", ""),
        (17, "block_size", "`block_size` cannot be set | it tells something about the server"),
        (17, "port", "`port` cannot be set here | pgprov sets it: servers listen on port 5432"),
        (17, "pg_stat_statements.max", ""),
        (17, "auto_explain.log_min_duration", ""),
        (
            17,
            "a.b = 'x'\nport",
            "unknown PostgreSQL setting `a.b = 'x'\\nport` | the settings of PostgreSQL 17: SELECT name FROM pg_settings",
        ),
    ] {
        let refusal = resolve(version, name).err();
        let shown = refusal.map(|refusal| format!("{} | {}", refusal.message, refusal.hints.join("; ")));
        assert_eq!(shown.unwrap_or_default(), expected, "{name}");
    }
}
