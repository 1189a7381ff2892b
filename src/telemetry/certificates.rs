//! When certificates end: notAfter (RFC 5280, 4.1.2.5) of what a rendered file holds.

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// notAfter of every PEM certificate in `bytes`, in order. PEM may be indented, as in a YAML block, or have its line ends
/// written as `\n`, as in a JSON text. What is no certificate, or a broken one, is passed over. Validity is not judged.
pub fn not_after(bytes: &[u8]) -> Vec<Timestamp> {
    let Ok(text) = std::str::from_utf8(bytes) else { return Vec::new() };
    if !text.contains("-----BEGIN CERTIFICATE-----") {
        return Vec::new();
    }
    let lines = text.replace("\\n", "\n");
    let mut found = Vec::new();
    for part in lines.split("-----BEGIN CERTIFICATE-----").skip(1) {
        let Some((body, _)) = part.split_once("-----END CERTIFICATE-----") else { continue };
        let body: String = body.split_whitespace().flat_map(|line| [line, "\n"]).collect();
        let pem = format!("-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n");
        found.extend(CertificateDer::from_pem_slice(pem.as_bytes()).ok().and_then(|der| end_of(&der)));
    }
    found
}

fn end_of(der: &CertificateDer<'_>) -> Option<Timestamp> {
    let certificate = Certificate::from_der(der).ok()?;
    let end = certificate.tbs_certificate.validity.not_after.to_unix_duration();
    Timestamp::from_second(i64::try_from(end.as_secs()).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(year: i32) -> String {
        let mut parameters = rcgen::CertificateParams::new(vec!["example.org".into()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(year, 3, 4);
        parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    }

    fn years(bytes: &[u8]) -> Vec<String> {
        not_after(bytes).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_certificate_of_a_chain_is_found_beside_keys_and_comments() {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let text = format!("# chain\n{}{key}{}", pem(2031), pem(2045));
        assert_eq!(years(text.as_bytes()), ["2031-03-04T00:00:00Z", "2045-03-04T00:00:00Z"]);
    }

    #[test]
    fn a_certificate_indented_in_yaml_or_escaped_in_json_is_found() {
        let yaml = format!("tls:\n  cert: |\n    {}\n", pem(2031).trim().replace('\n', "\n    "));
        assert_eq!(years(yaml.as_bytes()), ["2031-03-04T00:00:00Z"]);
        let json = serde_json::json!({ "cert": pem(2060) }).to_string();
        assert_eq!(years(json.as_bytes()), ["2060-03-04T00:00:00Z"]);
    }

    #[test]
    fn a_broken_certificate_is_passed_over() {
        let text = format!(
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n{}-----BEGIN CERTIFICATE-----\n",
            pem(2031)
        );
        assert_eq!(years(text.as_bytes()), ["2031-03-04T00:00:00Z"]);
        assert!(not_after(b"\xff\xfe").is_empty() && not_after(b"x").is_empty());
    }
}
