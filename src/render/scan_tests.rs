use super::*;

fn strict(text: &str) -> String {
    Scan::new(text).unwrap().rewrite(text, &[], true, 0).text
}

#[test]
fn an_unguarded_chain_must_be_there() {
    assert_eq!(strict("{{ secrets.a.b | upper }}"), "{{ (secrets?.a?.b | __need(n=0)) | upper }}");
    assert_eq!(strict("{{ secrets['a-b'].c }}"), "{{ (secrets?['a-b']?.c | __need(n=0)) }}");
    assert_eq!(strict("{{ x ~ y.z }}"), "{{ (x | __need(n=0)) ~ (y.z | __need(n=1)) }}");
    assert_eq!(
        strict("{{ 'a' | replace(from='a', to=secrets.a.b) }}"),
        "{{ 'a' | replace(from='a', to=(secrets?.a?.b | __need(n=0))) }}"
    );
}

#[test]
fn a_guarded_chain_may_be_missing() {
    assert_eq!(strict("{% if previous.a.b is defined %}"), "{% if previous?.a?.b is defined %}");
    assert_eq!(strict("{% if previous.a is not defined %}"), "{% if previous?.a is not defined %}");
    assert_eq!(strict("{{ secrets.a.b | default(value='x') }}"), "{{ secrets?.a?.b | default(value='x') }}");
    assert_eq!(strict("{{ secrets?.a?.b }}"), "{{ secrets?.a?.b }}");
    assert_eq!(strict("{% if previous.a and x %}"), "{% if previous?.a and x %}");
    assert_eq!(strict("{% if secrets.a.b %}"), "{% if (secrets?.a?.b | __need(n=0)) %}");
}

#[test]
fn names_that_are_no_variables_are_left_alone() {
    assert_eq!(
        strict("{{ range(end=3) }}{% for x in [1] %}{{ loop.index }}{% endfor %}"),
        "{{ range(end=3) }}{% for x in [1] %}{{ loop.index }}{% endfor %}"
    );
    assert_eq!(strict("{% set x = 1 %}{% block a %}{% endblock a %}"), "{% set x = 1 %}{% block a %}{% endblock a %}");
    assert_eq!(
        strict("{{ <My.Button label={a.b} c=\"d\" /> }}"),
        "{{ <My.Button label={(a.b | __need(n=0))} c=\"d\" /> }}"
    );
    assert_eq!(strict("{{ [x for x in xs if x] }}"), "{{ [(x | __need(n=0)) for x in (xs | __need(n=1)) if x] }}");
}

#[test]
fn a_subscript_that_is_an_expression_is_dynamic() {
    let scan = Scan::new("{{ secrets[name].password }}{{ secrets.a[secrets.b.c] }}").unwrap();
    assert!(scan.chains.iter().any(|c| c.path == ["secrets"] && c.dynamic));
    assert!(scan.chains.iter().any(|c| c.path == ["secrets", "a"] && c.dynamic));
    assert!(scan.chains.iter().any(|c| c.path == ["secrets", "b", "c"] && !c.dynamic));
}

#[test]
fn offsets_lead_back_to_the_text_as_written() {
    let text = "{{ secrets.a.b | nope }}";
    let rewritten = Scan::new(text).unwrap().rewrite(text, &[], true, 0);
    let new = rewritten.text.find("nope").unwrap();
    assert_eq!(rewritten.original(new), text.find("nope").unwrap());
    assert_eq!(rewritten.original(rewritten.text.find(NEED).unwrap()), text.find(" | nope").unwrap());
}
