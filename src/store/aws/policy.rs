//! The smallest IAM policy for what is read
//! (<https://docs.aws.amazon.com/service-authorization/latest/reference/list_awssecretsmanager.html>). Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::id::in_region;

/// How a secret's ARN ends where only its name is known: AWS puts `-` and six characters after it.
const SUFFIX: &str = "-??????";

/// One secret, as far as it is known.
pub(super) struct Named {
    /// As the config names it.
    pub id: String,
    pub arn: Option<String>,
    /// Its keys by region; None is the account's default key there.
    pub keys: BTreeMap<String, Option<String>>,
}

/// What the policy is for.
pub(super) struct Wanted {
    pub secrets: Vec<Named>,
    pub regions: Vec<String>,
    /// The account of this identity, where that is known: names are of it.
    pub account: Option<String>,
    pub batched: bool,
    /// The queue's ARN.
    pub queue: Option<String>,
}

/// The policy's JSON.
pub(super) fn of(wanted: &Wanted) -> String {
    let (mut secrets, mut keys) = (BTreeSet::new(), BTreeMap::<&str, BTreeSet<String>>::new());
    for secret in &wanted.secrets {
        for region in &wanted.regions {
            let arn = resource(secret, region, wanted.account.as_deref());
            if let Some(Some(key)) = secret.keys.get(region)
                && !managed(key)
            {
                keys.entry(region).or_default().insert(key_arn(key, region, &arn));
            }
            secrets.insert(arn);
        }
    }
    let actions = ["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"];
    let mut statements = vec![json!({"Effect": "Allow", "Action": actions, "Resource": secrets})];
    if wanted.batched {
        let action = "secretsmanager:BatchGetSecretValue";
        statements.push(json!({"Effect": "Allow", "Action": action, "Resource": "*"}));
    }
    for (region, keys) in keys {
        let whole: Vec<_> = keys.iter().filter_map(|key| key.strip_suffix('*')).map(str::to_owned).collect();
        let needless = |key: &&String| !key.ends_with('*') && whole.iter().any(|whole| key.starts_with(whole.as_str()));
        let keys: Vec<_> = keys.iter().filter(|key| !needless(key)).collect();
        let condition = json!({"StringEquals": {"kms:ViaService": services(region)}});
        statements.push(json!({"Effect": "Allow", "Action": "kms:Decrypt", "Resource": keys, "Condition": condition}));
    }
    if let Some(queue) = &wanted.queue {
        let actions = ["sqs:ReceiveMessage", "sqs:DeleteMessage"];
        statements.push(json!({"Effect": "Allow", "Action": actions, "Resource": queue}));
    }
    let policy: Value = json!({"Version": "2012-10-17", "Statement": statements});
    // A tree of texts: it cannot fail.
    serde_json::to_string_pretty(&policy).unwrap_or_default()
}

/// The secret's ARN in a region, as far as it is known.
fn resource(secret: &Named, region: &str, account: Option<&str>) -> String {
    match secret.arn.as_deref().filter(|arn| !arn.is_empty()) {
        Some(arn) => in_region(arn, region),
        None if secret.id.starts_with("arn:") => {
            let suffix = if has_suffix(&secret.id) { "" } else { SUFFIX };
            in_region(&secret.id, region) + suffix
        }
        None => {
            let (partition, account) = (partition(region), account.unwrap_or("*"));
            format!("arn:{partition}:secretsmanager:{region}:{account}:secret:{}{SUFFIX}", secret.id)
        }
    }
}

/// Whether it ends like what AWS puts after a name.
fn has_suffix(arn: &str) -> bool {
    let end = arn.rsplit_once('-').map(|(_, end)| end);
    end.is_some_and(|end| end.len() == 6 && end.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// The partition of a region (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html>).
pub(super) fn partition(region: &str) -> &'static str {
    const BY_PREFIX: [(&str, &str); 7] = [
        ("cn-", "aws-cn"),
        ("us-gov-", "aws-us-gov"),
        ("us-iso-", "aws-iso"),
        ("us-isob-", "aws-iso-b"),
        ("eu-isoe-", "aws-iso-e"),
        ("us-isof-", "aws-iso-f"),
        ("eusc-", "aws-eusc"),
    ];
    BY_PREFIX.iter().find(|(prefix, _)| region.starts_with(prefix)).map_or("aws", |(_, partition)| partition)
}

/// By which names KMS knows Secrets Manager in a region.
fn services(region: &str) -> Value {
    let name = format!("secretsmanager.{region}.amazonaws.com");
    match partition(region) {
        "aws-cn" => json!([name, format!("{name}.cn")]),
        _ => json!(name),
    }
}

/// The account's default key needs no permission of its own.
fn managed(key: &str) -> bool {
    key.ends_with("alias/aws/secretsmanager")
}

/// The key's ARN; `of` is the ARN of a secret under it, of the same account unless the key says another.
fn key_arn(key: &str, region: &str, of: &str) -> String {
    let mut of = of.split(':').skip(1);
    let (partition, account) = (of.next().unwrap_or("aws"), of.nth(2).unwrap_or("*"));
    let whole = match key.starts_with("arn:") {
        true => key.to_owned(),
        false if key.starts_with("alias/") => format!("arn:{partition}:kms:{region}:{account}:{key}"),
        false => format!("arn:{partition}:kms:{region}:{account}:key/{key}"),
    };
    match whole.split_once(":alias/") {
        // An alias is no resource of a policy.
        Some((at, _)) => format!("{at}:key/*"),
        None => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:secretsmanager:us-west-2:1:secret:app-AbCdEf";
    const KEY: &str = "0a1b2c3d-0000-4000-8000-000000000000";

    fn named(id: &str, arn: Option<&str>, keys: &[(&str, Option<&str>)]) -> Named {
        let keys = keys.iter().map(|(region, key)| ((*region).to_owned(), key.map(str::to_owned))).collect();
        Named { id: id.into(), arn: arn.map(str::to_owned), keys }
    }

    fn wanted(secrets: Vec<Named>, regions: &[&str]) -> Wanted {
        let regions = regions.iter().map(ToString::to_string).collect();
        Wanted { secrets, regions, account: None, batched: false, queue: None }
    }

    fn statements(wanted: &Wanted) -> Vec<Value> {
        let policy: Value = serde_json::from_str(&of(wanted)).expect("JSON");
        assert_eq!(policy["Version"], "2012-10-17");
        policy["Statement"].as_array().cloned().expect("a list")
    }

    fn read(resources: &[&str]) -> Value {
        let actions = ["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"];
        json!({"Effect": "Allow", "Action": actions, "Resource": resources})
    }

    fn decrypt(resources: &[&str], by: &str) -> Value {
        let condition = json!({"StringEquals": {"kms:ViaService": by}});
        json!({"Effect": "Allow", "Action": "kms:Decrypt", "Resource": resources, "Condition": condition})
    }

    #[test]
    fn a_secret_by_name_and_by_arn_is_listed_once() {
        let secrets = vec![named("app", Some(ARN), &[]), named(ARN, Some(ARN), &[])];
        assert_eq!(statements(&wanted(secrets, &["us-west-2"])), [read(&[ARN])]);
    }

    #[test]
    fn a_name_without_a_known_arn_ends_in_what_aws_puts_after_it() {
        let mut of = wanted(vec![named("team/app", None, &[])], &["us-west-2"]);
        assert_eq!(statements(&of), [read(&["arn:aws:secretsmanager:us-west-2:*:secret:team/app-??????"])]);
        of.account = Some("1".into());
        assert_eq!(statements(&of), [read(&["arn:aws:secretsmanager:us-west-2:1:secret:team/app-??????"])]);
        let partial = wanted(vec![named(&ARN[..ARN.len() - 7], None, &[])], &["us-west-2"]);
        assert_eq!(statements(&partial), [read(&["arn:aws:secretsmanager:us-west-2:1:secret:app-??????"])]);
        assert_eq!(statements(&wanted(vec![named(ARN, None, &[])], &["us-west-2"])), [read(&[ARN])]);
    }

    #[test]
    fn the_partition_is_the_arns_or_the_regions() {
        for (region, partition) in [("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov"), ("eu-west-1", "aws")] {
            let unknown = statements(&wanted(vec![named("app", None, &[])], &[region]));
            assert_eq!(unknown, [read(&[&format!("arn:{partition}:secretsmanager:{region}:*:secret:app-??????")])]);
            let arn = format!("arn:{partition}:secretsmanager:{region}:1:secret:app-AbCdEf");
            let known = statements(&wanted(vec![named("app", Some(&arn), &[(region, Some(KEY))])], &[region]));
            assert_eq!(known[0], read(&[&arn]));
            assert_eq!(known[1]["Resource"], json!([format!("arn:{partition}:kms:{region}:1:key/{KEY}")]));
        }
        let china = statements(&wanted(vec![named("app", None, &[("cn-north-1", Some(KEY))])], &["cn-north-1"]));
        let by = ["secretsmanager.cn-north-1.amazonaws.com", "secretsmanager.cn-north-1.amazonaws.com.cn"];
        assert_eq!(china[1]["Condition"]["StringEquals"]["kms:ViaService"], json!(by));
    }

    #[test]
    fn an_alias_stands_for_all_keys_of_its_account_and_region() {
        let by = "secretsmanager.us-west-2.amazonaws.com";
        let key = format!("arn:aws:kms:us-west-2:1:key/{KEY}");
        for (keys, resource) in [
            (vec![KEY], key.as_str()),
            (vec![key.as_str()], &key),
            (vec!["alias/own"], "arn:aws:kms:us-west-2:1:key/*"),
            (vec!["arn:aws:kms:us-west-2:2:alias/own"], "arn:aws:kms:us-west-2:2:key/*"),
            (vec!["alias/own", KEY, "arn:aws:kms:us-west-2:1:alias/other"], "arn:aws:kms:us-west-2:1:key/*"),
        ] {
            let secrets = keys.iter().map(|key| named("app", Some(ARN), &[("us-west-2", Some(key))])).collect();
            assert_eq!(statements(&wanted(secrets, &["us-west-2"])), [read(&[ARN]), decrypt(&[resource], by)]);
        }
        for key in ["alias/aws/secretsmanager", "arn:aws:kms:us-west-2:1:alias/aws/secretsmanager"] {
            let secret = named("app", Some(ARN), &[("us-west-2", Some(key))]);
            assert_eq!(statements(&wanted(vec![secret], &["us-west-2"])), [read(&[ARN])], "the default key: {key}");
        }
    }

    #[test]
    fn a_replica_is_decrypted_with_its_own_key() {
        let keys = [("us-west-2", Some(KEY)), ("us-east-1", Some("alias/there")), ("eu-west-1", None)];
        let regions = ["us-west-2", "us-east-1", "eu-west-1"];
        let [west, east, europe] = regions.map(|region| in_region(ARN, region));
        assert_eq!(
            statements(&wanted(vec![named("app", Some(ARN), &keys)], &regions)),
            [
                read(&[&europe, &east, &west]),
                decrypt(&["arn:aws:kms:us-east-1:1:key/*"], "secretsmanager.us-east-1.amazonaws.com"),
                decrypt(&[&format!("arn:aws:kms:us-west-2:1:key/{KEY}")], "secretsmanager.us-west-2.amazonaws.com"),
            ]
        );
        let one = statements(&wanted(vec![named("app", Some(ARN), &keys)], &["eu-west-1"]));
        assert_eq!(one, [read(&[&europe])], "keys of regions that nobody asks are not needed");
    }

    #[test]
    fn batches_and_a_queue_have_statements_of_their_own() {
        let mut of = wanted(vec![named("app", Some(ARN), &[])], &["us-west-2"]);
        of.batched = true;
        of.queue = Some("arn:aws:sqs:us-west-2:1:agent".into());
        let batch = json!({"Effect": "Allow", "Action": "secretsmanager:BatchGetSecretValue", "Resource": "*"});
        let actions = ["sqs:ReceiveMessage", "sqs:DeleteMessage"];
        let queue = json!({"Effect": "Allow", "Action": actions, "Resource": "arn:aws:sqs:us-west-2:1:agent"});
        assert_eq!(statements(&of), [read(&[ARN]), batch, queue]);
    }
}
