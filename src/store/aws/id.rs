//! Names of secrets: friendly ones and ARNs. Pure.

/// A secret's name in a region: an ARN names its own region, and a replica's differs in nothing else
/// (<https://docs.aws.amazon.com/secretsmanager/latest/userguide/replicate-secrets.html>).
pub(super) fn in_region(id: &str, region: &str) -> String {
    let parts: Vec<&str> = id.splitn(5, ':').collect();
    match parts[..] {
        ["arn", partition, "secretsmanager", _, rest] => format!("arn:{partition}:secretsmanager:{region}:{rest}"),
        _ => id.to_owned(),
    }
}

/// Whether `id`, as somebody wrote it, names the secret with this ARN and name: by name, ARN, or ARN without the six
/// characters that AWS puts after the name, in whatever region.
pub(super) fn names(id: &str, arn: &str, name: &str) -> bool {
    let rest = |arn: &str| arn.splitn(5, ':').nth(4).map(str::to_owned);
    match (id.starts_with("arn:"), rest(id), rest(arn)) {
        (false, ..) => id == name,
        (true, Some(id), Some(arn)) => {
            let suffix = arn.strip_prefix(id.as_str());
            suffix.is_some_and(|suffix| suffix.is_empty() || (suffix.len() == 7 && suffix.starts_with('-')))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_by_name_arn_and_arn_without_its_suffix_in_any_region() {
        let arn = "arn:aws:secretsmanager:us-west-2:1:secret:litellm/aws-AbCdEf";
        for id in [
            "litellm/aws",
            arn,
            "arn:aws:secretsmanager:us-west-2:1:secret:litellm/aws",
            "arn:aws:secretsmanager:us-east-1:1:secret:litellm/aws-AbCdEf",
        ] {
            assert!(names(id, arn, "litellm/aws"), "{id}");
        }
        for id in ["litellm/aws-AbCdEf", "litellm", "arn:aws:secretsmanager:us-west-2:1:secret:litellm", "arn:aws"] {
            assert!(!names(id, arn, "litellm/aws"), "{id}");
        }
    }
}
