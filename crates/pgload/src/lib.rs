//! pgload: a warehouse backend under load, with results that can be compared and a ledger that proves nothing was lost.

pub mod advise;
pub mod assets;
pub mod cli;
pub mod commands;
pub mod compare;
pub mod data;
pub mod environment;
pub mod init;
pub mod ledger;
pub mod measure;
pub mod optimise;
pub mod plan;
pub mod report;
pub mod results;
pub mod rng;
pub mod run;
pub mod script;
pub mod session;
pub mod stage;
pub mod store;
pub mod svg;
pub mod target;
pub mod ui;
pub mod value;
pub mod verify;
pub mod workload;
