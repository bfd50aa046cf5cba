//! The certificate authority of a lab.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Error, Secret, seconds};

pub(super) const DAY: u64 = 24 * 60 * 60;
const LIFE: Duration = Duration::from_secs(3652 * DAY);
/// Browsers and some TLS libraries refuse server certificates that last longer.
pub(super) const HOST_LIFE: Duration = Duration::from_secs(398 * DAY);
/// A guest restored from memory believes for a moment that it is still the day it was saved.
const BACKDATED: Duration = Duration::from_secs(7 * DAY);

/// Key and certificate that sign the certificates of the hosts.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Authority {
    /// The lab's name: a part of the subject, which every certificate has to repeat as its issuer.
    pub(super) lab: String,
    pub(super) certificate: String,
    key: Secret,
    /// When it ends, in seconds since 1970.
    pub(super) not_after: u64,
}

impl Authority {
    pub(super) fn new(lab: &str, now: SystemTime) -> Result<Self, Error> {
        let failed = |source| Error::Certificate { name: subject(lab), source };
        let key = KeyPair::generate().map_err(failed)?;
        let not_after = seconds(now + LIFE);
        let mut params = parameters(lab);
        set_validity(&mut params, now, not_after);
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Self {
            lab: lab.to_owned(),
            certificate: certificate.pem(),
            key: Secret(key.serialize_pem()),
            not_after,
        })
    }

    /// Makes key and certificate of a host, for both ends of a connection: a standby is a client of its primary.
    pub(super) fn issue(
        &self,
        name: &str,
        ips: &[IpAddr],
        now: SystemTime,
        not_after: u64,
    ) -> Result<(String, Secret), Error> {
        let failed = |source| Error::Certificate { name: name.to_owned(), source };
        let signer = KeyPair::from_pem(self.key.expose()).map_err(failed)?;
        let issuer = Issuer::new(parameters(&self.lab), signer);
        let mut params = CertificateParams::new([name.to_owned()]).map_err(failed)?;
        params.subject_alt_names.extend(ips.iter().copied().map(SanType::IpAddress));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, not_after);
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
        Ok((certificate.pem(), Secret(key.serialize_pem())))
    }
}

/// What the authority's own certificate says and what its signatures refer to; the two must agree.
fn parameters(lab: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, subject(lab));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn subject(lab: &str) -> String {
    format!("pgprov lab {lab} CA")
}

fn set_validity(params: &mut CertificateParams, now: SystemTime, not_after: u64) {
    params.not_before = OffsetDateTime::from(now - BACKDATED);
    params.not_after = OffsetDateTime::from(SystemTime::UNIX_EPOCH + Duration::from_secs(not_after));
}
