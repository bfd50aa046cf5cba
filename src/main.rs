//! `pgprov`: one topology YAML in, a running PostgreSQL lab out.
fn main() {}
