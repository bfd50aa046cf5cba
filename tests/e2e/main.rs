//! The end-to-end tests: real VMs, made and taken away by the `pgprov` program.
//!
//! `make test-e2e` runs them in a network namespace with a libvirtd of its own (`scripts/sandbox`). Cases run one after
//! the other, in the order of [`CASES`]; a lab that several of them use is brought up once, by the first one that
//! needs it. Words on the command line select the cases whose name contains one of them.

mod backup;
mod change;
mod checkpoint;
mod command;
mod connect;
mod containers;
mod engine;
mod failover;
mod fault;
mod fresh;
mod harness;
mod identity;
mod killed;
mod lessons;
mod load;
mod machines;
mod monitoring;
mod neighbours;
mod objects;
mod patroni;
mod refused;
mod restart;
mod roles;
mod secrets;
mod snapshot;
mod stock;
mod suite;
mod vagrant;
mod verbs;

use std::process::ExitCode;

use harness::Case;
use killed::Point;

/// All cases, in order: those that only look come first, those that break something last.
const CASES: &[Case] = &[
    Case::new("up-from-nothing", fresh::up_from_nothing),
    Case::new("status-as-json", fresh::status_as_json),
    Case::new("row-on-primary-is-read-on-standby", fresh::row_on_primary_is_read_on_standby),
    Case::new("standby-is-read-only", fresh::standby_is_read_only),
    Case::new("standby-begins-as-what-the-image-has", fresh::standby_begins_as_what_the_image_has),
    Case::new("services-on-the-client", connect::services_on_the_client),
    Case::new("concurrent-transactions", connect::concurrent_transactions),
    Case::new("tls-and-scram-only", connect::tls_and_scram_only),
    Case::new("psql-on-the-hypervisor", connect::psql_on_the_hypervisor),
    Case::new("program-on-the-hypervisor", connect::program_on_the_hypervisor),
    Case::new("identities-differ", identity::identities_differ),
    Case::new("hosts-woke-up", snapshot::hosts_woke_up),
    Case::new("hardware-is-the-same", identity::hardware_is_the_same),
    Case::new("hosts-are-healthy", identity::hosts_are_healthy),
    Case::new("monitoring-is-off-without-its-key", monitoring::is_off_without_its_key),
    Case::new("clocks-are-right", identity::clocks_are_right),
    Case::new("no-secret-in-arguments", secrets::no_secret_in_arguments),
    Case::new("no-secret-in-definitions-and-logs", secrets::no_secret_in_definitions_and_logs),
    Case::new("secret-files-are-private", secrets::secret_files_are_private),
    Case::new("exec-on-all-hosts", verbs::exec_on_all_hosts),
    Case::new("ssh-runs-commands", verbs::ssh_runs_commands),
    Case::new("psql-passes-arguments-on", verbs::psql_passes_arguments_on),
    Case::new("logs-of-a-host", verbs::logs_of_a_host),
    Case::new("ssh-config-for-plain-ssh", verbs::ssh_config_for_plain_ssh),
    Case::new("graph-of-the-lab", verbs::graph_of_the_lab),
    Case::new("load-init", load::init),
    Case::new("load-run-status-stop-compare", load::run_status_stop_compare),
    Case::new("load-verify", load::verify),
    Case::new("load-own-workload-is-retried", load::own_workload_is_retried),
    Case::new("backup-cron-fires", backup::cron_fires_and_the_count_is_kept),
    Case::new("backup-dropped-table-is-restored", backup::a_dropped_table_is_restored),
    Case::new("backup-entry-goes-with-its-key", backup::entry_goes_with_its_key),
    Case::new("image-in-use-is-not-removed", refused::image_in_use_is_not_removed),
    Case::new("too-little-memory-is-refused", refused::too_little_memory_is_refused),
    Case::new("too-small-pool-is-refused", refused::too_small_pool_is_refused),
    Case::new("overlapping-subnet-is-refused", neighbours::overlapping_subnet_is_refused),
    Case::new("second-up-changes-nothing", change::second_up_changes_nothing),
    Case::new("edited-files-are-put-right", change::edited_files_are_put_right),
    Case::new("user-file-is-left-alone", change::user_file_is_left_alone),
    Case::new("setting-is-reloaded", change::setting_is_reloaded),
    Case::new("unreachable-host-is-left-out", change::unreachable_host_is_left_out),
    Case::new("standby-is-restarted-first", restart::standby_is_restarted_first),
    Case::new(
        "fewer-connections-restart-the-primary-first",
        restart::fewer_connections_restart_the_primary_first,
    ),
    Case::new("broken-setting-is-taken-back", restart::broken_setting_is_taken_back),
    Case::new("alter-system-is-drift", objects::alter_system_is_drift),
    Case::new("users-and-databases-come-and-go", objects::users_and_databases_come_and_go),
    Case::new("suspend-and-resume", verbs::suspend_and_resume),
    Case::new("swapped-host-is-noticed", identity::swapped_host_is_noticed),
    Case::new("two-labs-side-by-side", neighbours::two_labs_side_by_side),
    Case::new("altered-replication-is-drift", objects::altered_replication_is_drift),
    Case::new("cascaded-standby-comes-and-goes", change::cascaded_standby_comes_and_goes),
    Case::new("one-of-two-labs-is-destroyed", neighbours::one_of_two_labs_is_destroyed),
    Case::new("strangers-are-left-alone", neighbours::strangers_are_left_alone),
    Case::new("boot-timeout-names-what-it-waited-for", refused::boot_timeout_names_what_it_waited_for),
    Case::new("booted-lab-is-the-same", snapshot::booted_lab_is_the_same),
    Case::new("copy-survives-a-reboot", snapshot::copy_survives_a_reboot),
    Case::new("checkpoint-ready-is-made", checkpoint::ready_is_made),
    Case::new("streams-outlive-a-reset", checkpoint::streams_outlive_a_reset),
    Case::new("reset-after-each-fault", checkpoint::reset_after_each_fault),
    Case::new("two-resets-in-a-row", checkpoint::two_resets_in_a_row),
    Case::new("checkpoint-that-does-not-fit", checkpoint::what_does_not_fit_is_refused),
    Case::new("several-checkpoints", checkpoint::several_checkpoints),
    Case::new("checkpoint-needs-all-hosts", checkpoint::save_needs_all_hosts),
    Case::new("killed-while-restoring", checkpoint::killed_while_restoring),
    Case::new("killed-while-saving", checkpoint::killed_while_saving),
    Case::new("fault-network", fault::of_the_network),
    Case::new("fault-machine", fault::of_the_machine),
    Case::new("watch-with-keys", fault::watched),
    Case::new("fault-healed-after-sigkill", fault::healed_after_sigkill),
    Case::new("up-starts-from-ready", checkpoint::up_starts_from_ready),
    Case::new("failover-network-of-the-primary-is-cut", failover::network_of_the_primary_is_cut),
    Case::new("failover-nobody-is-promoted-needlessly", failover::nobody_is_promoted_needlessly),
    Case::new("failover-a-lonely-primary-closes-its-port", failover::a_lonely_primary_closes_its_port),
    Case::new("lesson-hot-standby", lessons::hot_standby),
    Case::new("patroni-goes-back", patroni::goes_back),
    Case::new("half-installed-edit-is-taken-back", killed::edit_is_taken_back),
    Case::new("name-that-cannot-be-had", killed::a_name_that_cannot_be_had),
    Case::new("powered-off-host-comes-back", killed::powered_off_host_comes_back),
    Case::new("killed-while-restarting", killed::while_restarting),
    Case::new("killed-destroy", killed::destroy),
    Case::new("killed-while-booting", |suite| killed::at(suite, &Point::Said("s waking up", 700))),
    Case::new("unused-image-is-removed", refused::unused_image_is_removed),
    Case::new("debian-12", fresh::debian_12),
];

/// Cases that take long, or show from another side what a case above shows too, for `make verify`: `--thorough` runs these
/// instead.
const THOROUGH: &[Case] = &[
    Case::new("backup-cron-fires", backup::cron_fires_and_the_count_is_kept),
    Case::new("backup-failures-leave-the-good-ones", backup::what_fails_leaves_the_good_ones),
    Case::new("failover-load-goes-on-and-loses-nothing", load::goes_on_after_failover),
    Case::new("patroni-leader-is-lost", patroni::leader_is_lost),
    Case::new("patroni-faults", patroni::faults),
    Case::new("patroni-frozen", patroni::frozen),
    Case::new("patroni-paused", patroni::paused),
    Case::new("patroni-times", patroni::times),
    Case::new("patroni-settings", patroni::settings),
    Case::new("patroni-replica-comes-and-goes", patroni::replica_comes_and_goes),
    Case::new("patroni-two-replicas", patroni::two_replicas),
    Case::new("monitoring-every-query-has-data", monitoring::every_query_has_data),
    Case::new("monitoring-user-may-only-look", monitoring::user_may_only_look),
    Case::new("monitoring-files-are-valid", monitoring::files_are_valid),
    Case::new("monitoring-alerts-fire-and-end", monitoring::alerts_fire_and_end),
    Case::new("monitoring-goes-with-its-key", monitoring::goes_with_its_key),
    Case::new("monitoring-agents-are-read", monitoring::agents_are_read),
    Case::new("monitoring-patroni-is-read", monitoring::patroni_is_read),
    Case::new("monitoring-in-containers", containers::both_run),
    Case::new("role-of-ones-own", roles::pool_of_connections),
    Case::new("lesson-arbiter-failover", lessons::arbiter_failover),
    Case::new("failover-with-its-agent-well-or-dead", failover::with_its_agent_well_or_dead),
    Case::new("lesson-split-brain", lessons::split_brain),
    Case::new("lesson-spoilt", lessons::spoilt),
    Case::new("lesson-shipped-spoilt", lessons::shipped_spoilt),
    Case::new("lesson-student", lessons::played_by_a_student),
    Case::new("lesson-student-with-arbiter", lessons::arbiter_failover_by_a_student),
    Case::new("lesson-from-up", lessons::from_up),
    Case::new("reset-after-each-injected-fault", checkpoint::reset_after_each_injected_fault),
    Case::new("another-release-replaces-hosts", fresh::another_release_replaces_hosts),
    Case::new("booted-main-lab-is-the-same", snapshot::booted_main_lab_is_the_same),
    Case::new("engine-comes-and-goes", engine::comes_and_goes),
    Case::new("memory-is-changed", restart::memory_is_changed),
    Case::new("two-labs-at-once", neighbours::two_labs_at_once),
    Case::new("damaged-snapshot-is-not-used", snapshot::damaged_snapshot_is_not_used),
    Case::new("killed-with-secrets-only", |suite| killed::at(suite, &Point::State("secrets.json"))),
    Case::new("killed-with-a-network-only", |suite| {
        killed::at(suite, &Point::Definition("networks/pgprov-pair-data.xml"))
    }),
    Case::new("killed-with-a-vm-defined", |suite| killed::at(suite, &Point::Definition("pair-m.xml"))),
    Case::new("killed-while-copying-the-image", killed::while_copying_the_image),
    Case::new("killed-while-a-host-waits", |suite| {
        killed::at(suite, &Point::Said("s waiting for its turn", 0))
    }),
    Case::new("killed-while-applying-a-setting", killed::while_applying_a_setting),
    Case::new("killed-while-installing-files", |suite| killed::at(suite, &Point::Said("m applying", 400))),
    Case::new("killed-while-making-the-data-directory", |suite| {
        killed::at(suite, &Point::Said("m make the data directory", 2000))
    }),
    Case::new("killed-while-making-databases", |suite| killed::at(suite, &Point::Said("m bring roles", 0))),
    Case::new("killed-while-starting-the-standby", |suite| {
        killed::at(suite, &Point::Said("s start PostgreSQL", 500))
    }),
    Case::new("killed-while-copying-the-primary", |suite| {
        killed::at(suite, &Point::Said("s copy the data directory", 2500))
    }),
    Case::new("vagrant-makes-the-machines", vagrant::makes_the_machines),
    Case::new("machines-become-a-lab", machines::become_a_lab),
    Case::new("stock-image-installs-packages-at-up", stock::installs_packages_at_up),
];

/// The long list of faults of a failover, for `make verify`: `--campaign` runs these instead.
const CAMPAIGN: &[Case] = &[
    Case::new("links", failover::campaign::links),
    Case::new("one-way", failover::campaign::one_way),
    Case::new("power", failover::campaign::power),
    Case::new("processes", failover::campaign::processes),
    Case::new("pauses", failover::campaign::pauses),
    Case::new("clocks", failover::campaign::clocks),
    Case::new("upgrade", failover::campaign::upgrade),
    Case::new("forced", failover::campaign::forced),
    Case::new("operator", failover::campaign::operator),
    Case::new("arbiter-wiped", failover::campaign::arbiter_wiped),
    Case::new("arbiter-adopts", failover::campaign::adopted),
    Case::new("max-protection", failover::campaign::max_protection),
    Case::new("disk-full", failover::campaign::disk_full),
    Case::new("flapping", failover::campaign::flapping),
    Case::new("all-off-and-on", failover::campaign::all_off_and_on),
    Case::new("lossy", failover::campaign::lossy),
    Case::new("times", failover::times::times),
];

fn main() -> ExitCode {
    let asked = |flag: &str| std::env::args().any(|arg| arg == flag);
    harness::main(match (asked("--campaign"), asked("--thorough")) {
        (true, _) => CAMPAIGN,
        (_, true) => THOROUGH,
        _ => CASES,
    })
}
