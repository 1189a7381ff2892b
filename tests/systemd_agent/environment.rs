//! What the agent writes for `EnvironmentFile=` is what the unit's process gets, byte for byte.

use std::collections::BTreeMap;

use crate::house::House;

fn nasty() -> Vec<String> {
    let texts = [
        "plain",
        "",
        " ",
        "  leading and trailing  ",
        "\t",
        "two\nlines",
        "\n",
        "\n\nleading newlines",
        "trailing newline\n",
        "carriage\rreturn",
        "dos\r\nlines\r\n",
        "\"",
        "\"quoted\"",
        "'",
        "'single quoted'",
        "`backticks`",
        "$",
        "$HOME",
        "${HOME}",
        "$$",
        "%",
        "%h %% %n %i",
        "#",
        "# not a comment",
        "value # with hash",
        ";",
        "; not a comment",
        "\\",
        "\\\\",
        "trailing backslash\\",
        "\\\n",
        "back\\nslash n",
        "\\x41\\101\\u0041",
        "\\\"",
        "\"\\",
        "=",
        "a=b=c",
        "export X=1",
        "line\nOTHER=injected\n",
        "\"\nOTHER=\"injected",
        "'\nOTHER='injected",
        "[Service]\nExecStart=/bin/false",
        "\u{1}\u{2}\u{1b}[31m\u{7f}",
        "\u{8}\u{b}\u{c}",
        "ünïcödé",
        "日本語",
        "🔑🗝\u{200d}",
        "\u{feff}bom",
        "\u{85}\u{2028}\u{2029}",
        "\u{a0}nbsp\u{a0}",
        "*?[a-z]~",
        "!history",
        "$(touch /tmp/pwned)",
        "a\\",
        "p@ss w\"o'r$d#1\\\n2`3`;=%s",
        "\\ ",
        " \\",
        "x \\\ny",
        "{{ secrets.app.value }}",
        "{% raw %}",
    ];
    let mut texts: Vec<String> = texts.map(str::to_owned).into();
    texts.push("long".repeat(25_000));
    texts
}

fn secrets(values: &[String]) -> String {
    let fields: BTreeMap<String, &String> = values.iter().enumerate().map(|(i, v)| (format!("v{i:02}"), v)).collect();
    serde_json::json!({ "nasty": fields }).to_string()
}

fn config(count: usize) -> String {
    let env: String = (0..count).map(|i| format!("          V{i:02}: '{{{{ secrets.nasty.v{i:02} }}}}'\n")).collect();
    format!(
        "state_dir: state\nstores:\n  local: {{type: file, path: secrets.json}}\nsecrets:\n  nasty: {{store: local}}\n\
         targets:\n  app:\n    files:\n      - path: out/env\n        format: systemd-env\n        env:\n{env}\
         \x20   settle: {{min: 0s, max: 0s}}\n    reload: {{type: systemd, unit: nasty.service, verb: restart, timeout: 50s}}\n"
    )
}

fn assert_environ(house: &House, values: &[String]) {
    let environ = house.environ("nasty.service");
    for (i, value) in values.iter().enumerate() {
        let name = format!("V{i:02}=");
        let read = environ.iter().find_map(|v| v.strip_prefix(name.as_bytes())).map(String::from_utf8_lossy);
        assert_eq!(read.as_deref(), Some(value.as_str()), "{name}");
    }
    let others: Vec<_> = environ.iter().filter(|v| v.starts_with(b"OTHER")).collect();
    assert!(others.is_empty(), "a value became a variable: {others:?}");
}

#[test]
fn every_nasty_value_reaches_the_process_through_an_environment_file_exactly() {
    let mut values = nasty();
    assert!(values.len() >= 30);
    let Some(house) = House::new("nasty", &config(values.len()), None) else { return };
    house.put("secrets.json", &secrets(&values));
    house.agent_unit("");
    house.sleeper("nasty.service", "EnvironmentFile=/srv/nasty/out/env");
    house.systemctl(&["start", &house.agent()]);
    house.systemctl(&["start", "nasty.service"]);
    assert_environ(&house, &values);
    house.wait_state("app", "healthy");
    // And after a rotation, each value in another one's place.
    values.rotate_left(7);
    house.put("secrets.json", &secrets(&values));
    house.wait_outcomes(&["committed", "committed"]);
    assert_environ(&house, &values);
}
