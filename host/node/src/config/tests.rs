//! A configuration as it is written, and what is said of one with a mistake in it.
//!
//! It goes through [`Config::parse`] alone: no file is read, and nothing is opened or listened to.

use super::*;

const FULL: &str = r#"
        [node]
        id = 1
        data = "/var/lib/statehouse"
        feature_level_max = 1
        [http]
        listen = "127.0.0.1:9000"
        [machines.wallet]
        module = "wallet.wasm"
        partitions = 4
        views = ["statements", "mine.wasm"]
        [[auth.tokens]]
        name = "till"
        roles = ["client", "treasury"]
        blake3 = "00"
        [[auth.tokens]]
        name = "shop"
        roles = ["client", "compliance"]
        blake3 = "01"
        entities = ["shop-1:*", "alice"]
        [auth.commands.wallet]
        freeze = ["compliance"]
        [webhooks]
        allow = ["hooks.internal", "10.2.0.0/16"]
        [limits]
        http_requests = 7
        [log]
        keep_bytes = 1073741824
        [snapshots]
        every_bytes = 268435456
        keep = 7
        [scrub]
        bytes_per_second = 0
    "#;

fn node(data: &str, level: u32) -> NodeConfig {
    NodeConfig { id: NodeId(1), data: data.into(), feature_level_max: FeatureLevel(level) }
}

#[test]
fn every_key_is_read() {
    let config = Config::parse(FULL).expect("a good file");
    assert_eq!(config.node, node("/var/lib/statehouse", 1));
    assert_eq!(config.http.listen.port(), 9000);
    let views = vec!["statements".to_owned(), "mine.wasm".to_owned()];
    assert_eq!(config.machines["wallet"], MachineConfig { module: "wallet.wasm".into(), partitions: 4, views });
    assert_eq!(Role::bits(&config.auth.tokens[0].roles), role::CLIENT | role::TREASURY);
    assert_eq!(config.auth.tokens[0].entities, None);
    assert_eq!(config.auth.tokens[1].entities, Some(vec!["shop-1:*".to_owned(), "alice".to_owned()]));
    assert_eq!(Role::bits(&config.auth.commands["wallet"]["freeze"]), role::COMPLIANCE);
    assert!(config.webhooks.receivers().is_ok_and(|receivers| receivers.names("hooks.internal")));
    assert_eq!(config.limits, LimitsConfig { http_requests: 7, ..LimitsConfig::default() });
    assert_eq!(config.log, LogConfig { keep_bytes: Some(1 << 30) });
    assert_eq!(config.scrub, ScrubConfig { bytes_per_second: 0 });
    assert_eq!(config.snapshots, SnapshotsConfig { every_bytes: Some(256 << 20), keep: Some(7) });
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = Config::parse("[node]\nid = 1\ndata = \"d\"\n[auth]\nopen = true\n[machines.m]\nmodule = \"m.wasm\"")
        .expect("enough");
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.node, node("d", features::HIGHEST.0));
    assert_eq!(config.machines["m"].partitions, 1);
    assert!(config.auth.tokens.is_empty());
    assert_eq!(config.scrub.bytes_per_second, 8 << 20);
    assert_eq!(config.log.keep_bytes, None, "nothing is deleted that nobody has released");
}

#[test]
fn a_node_for_everybody_is_one_on_purpose() {
    let node = "[node]\nid = 1\ndata = \"d\"\n";
    for closed in ["", "[auth]\n", "[auth]\nopen = false\n", "[auth]\nhosts = [\"pay.example\"]\n"] {
        let error = Config::parse(&format!("{node}{closed}")).expect_err(closed).to_string();
        assert!(error.contains("`auth.tokens` are missing") && error.contains("`open = true` below [auth]"), "{error}");
    }
    let open = Config::parse(&format!("{node}[auth]\nopen = true\nhosts = [\"pay.example\"]\n")).expect("on purpose");
    assert_eq!(open.auth.hosts, ["pay.example"]);
    check_error("[auth]\nopen = true", "`auth.open` contradicts [[auth.tokens]]");
}

#[track_caller]
fn check_error(extra: &str, expected: &str) {
    let error = Config::parse(&format!("{FULL}\n{extra}")).expect_err(extra).to_string();
    assert!(error.contains(expected), "{extra}: {error}");
}

#[test]
fn mistakes_are_named() {
    for level in ["0", "65535"] {
        let text = FULL.replace("feature_level_max = 1", &format!("feature_level_max = {level}"));
        let error = Config::parse(&text).expect_err("no such level").to_string();
        assert!(error.contains("must be from 1 to the highest level of this version"), "{error}");
    }
    check_error("[archive]\nevery_seconds = 0", "must be from 1 to 86400");
    let without = FULL.replace("[webhooks]", "").replace(r#"allow = ["hooks.internal", "10.2.0.0/16"]"#, "");
    for (webhooks, expected) in [
        ("retry_seconds = 0", "must be from 1 to 2592000"),
        ("secret = \"whsec_\"", "unknown field `secret`"),
        ("allow = [\"10.2.0.0/99\"]", "`10.2.0.0/99` is no host name, no address and no network"),
    ] {
        let error = Config::parse(&format!("{without}\n[webhooks]\n{webhooks}")).expect_err(webhooks).to_string();
        assert!(error.contains(expected), "{error}");
    }
    check_error("[views]\ninstead = [\"statements\"]", "statements");
    check_error("[machines.cluster]\nmodule = \"m\"", "names are");
    check_error("[archive]\nretain = 1", "unknown field `retain`");
    check_error("[htpp]", "unknown field `htpp`");
    check_error("colour = 1", "unknown field `colour`");
    check_error("[machines.system]\nmodule = \"m\"", "not `system`");
    check_error("[machines.Wallet]\nmodule = \"m\"", "names are");
    check_error("[machines.b]\nmodule = \"m\"\npartitions = 0", "must be from 1 to 4096");
    check_error("[machines.b]\nmodule = \"m\"\npartitions = 5000", "must be from 1 to 4096");
    check_error("[[auth.tokens]]\nname = \"x\"\nblake3 = \"\"\nroles = [\"root\"]", "unknown variant `root`");
    let small = FULL.replace("1073741824", "4096");
    let error = Config::parse(&small).expect_err("small").to_string();
    assert_eq!(error, "`log.keep_bytes` must be at least 1048576; leave it out to keep everything");
    let often = FULL.replace("268435456", "4096");
    let error = Config::parse(&often).expect_err("often").to_string();
    assert!(error.starts_with("`snapshots.every_bytes` must be at least 1048576"), "{error}");
}

fn http(section: &str) -> Result<HttpConfig, String> {
    let config = Config::parse(&FULL.replace("listen = \"127.0.0.1:9000\"", section));
    config.map(|config| config.http).map_err(|error| error.to_string())
}

#[test]
fn tls_for_clients_is_read() {
    let tls =
        http("listen = \"10.0.0.1:443\"\ntls = { certificate = \"c.pem\", key = \"k.pem\" }").expect("enough").tls;
    let least = HttpTlsConfig::new("c.pem".into(), "k.pem".into());
    assert_eq!((&least.client_ca, least.version_min), (&None, TlsVersion::Tls13));
    assert_eq!(tls, Some(least.clone()));
    let all = "tls = { certificate = \"c.pem\", key = \"k.pem\", client_ca = \"ca.pem\", \
        client_certificates = \"optional\", \
               version_min = \"1.2\" }";
    let full = HttpTlsConfig {
        client_ca: Some("ca.pem".into()),
        client_certificates: Some(ClientCertificates::Optional),
        version_min: TlsVersion::Tls12,
        ..least
    };
    assert_eq!(http(all).expect("all keys").tls, Some(full));
    assert_eq!(http("listen = \"10.0.0.1:80\"\nplaintext = true").expect("a deliberate word").tls, None);
}

#[test]
fn mistakes_about_tls_for_clients_are_named() {
    let check = |section: &str, expected: &str| {
        let error = http(section).expect_err(section);
        assert!(error.contains(expected), "{section}: {error}");
    };
    let pair = "certificate = \"c.pem\", key = \"k.pem\"";
    check("listen = \"10.0.0.1:80\"", "`http.tls` is missing: tokens would be sent in clear text");
    check("listen = \"0.0.0.0:80\"", "`http.tls` is missing");
    check("tls = { certificate = \"c.pem\" }", "missing field `key`");
    check(&format!("plaintext = true\ntls = {{ {pair} }}"), "`http.plaintext` contradicts `http.tls`");
    check(&format!("tls = {{ {pair}, client_certificates = \"required\" }}"), "needs `client_ca`");
    check(&format!("tls = {{ {pair}, client_certificates = \"maybe\" }}"), "unknown variant `maybe`");
    check(&format!("tls = {{ {pair}, version_min = \"1.1\" }}"), "unknown variant `1.1`");
    check(&format!("tls = {{ {pair}, ca = \"ca.pem\" }}"), "unknown field `ca`");
}

#[track_caller]
fn peer(section: &str) -> PeerConfig {
    let config = Config::parse(&format!("{FULL}\n[peer]\n{section}")).expect(section);
    config.peer.expect("the section is there")
}

#[test]
fn peers_are_read() {
    let config = Config::parse(FULL).expect("a good file");
    assert_eq!((config.peer, config.cluster.clock_skew_max()), (None, Duration::from_secs(1)));

    let plain = peer("listen = \"127.0.0.1:7001\"\nplaintext = true\n[cluster]\nmax_skew_ms = 20");
    assert_eq!((plain.advertise().as_str(), plain.tls, plain.routes.len()), ("127.0.0.1:7001", None, 0));

    let tls = "tls = { ca = \"ca.pem\", certificate = \"c.pem\", key = \"k.pem\" }";
    let full = peer(&format!(
        "listen = \"0.0.0.0:7001\"\nadvertise = \"n1.bank:7000\"\n{tls}\n[peer.routes]\n2 = \"[::1]:9\"\n\
         10 = \"n-10:7000\""
    ));
    assert_eq!(full.advertise(), "n1.bank:7000");
    let files = PeerTlsConfig { ca: "ca.pem".into(), certificate: "c.pem".into(), key: "k.pem".into() };
    assert_eq!(full.tls, Some(files));
    let routes = [(NodeId(2), "[::1]:9".to_owned()), (NodeId(10), "n-10:7000".to_owned())];
    assert_eq!(full.routes, BTreeMap::from(routes));

    let trusted = peer("listen = \"10.0.0.1:7001\"\nplaintext = true");
    assert_eq!(trusted.advertise(), "10.0.0.1:7001");
}

#[test]
fn mistakes_about_peers_are_named() {
    let check = |section: &str, expected| check_error(&format!("[peer]\n{section}"), expected);
    let local = "listen = \"127.0.0.1:7001\"\nplaintext = true";
    check("", "missing field `listen`");
    check("listen = \"127.0.0.1:0\"", "`peer.listen` must name its port");
    check("listen = \"127.0.0.1:9000\"", "`peer.listen` must be another address than `http.listen`");
    check("listen = \"0.0.0.0:7001\"\nplaintext = true", "`peer.advertise` is missing");
    for listen in ["10.0.0.1:7001", "127.0.0.1:7001", "[::1]:7001"] {
        check(&format!("listen = \"{listen}\""), "`peer.tls` is missing: any process that reaches");
    }
    check("listen = \"10.0.0.1:7001\"\ntls = { ca = \"ca.pem\" }", "missing field `certificate`");
    check(
        "listen = \"10.0.0.1:7001\"\nplaintext = true\ntls = { ca = \"a\", certificate = \"b\", key = \"c\" }",
        "`peer.plaintext` contradicts `peer.tls`",
    );
    for bad in
        ["n1", "n1:", "n1:0", ":7000", "0.0.0.0:7000", "::1:7000", "300.1.1.1:7000", "http://n1:7000", "n1:70000"]
    {
        check(&format!("{local}\nadvertise = \"{bad}\""), "`peer.advertise` must be host:port");
    }
    check(&format!("{local}\n[peer.routes]\n2 = \"n2\""), "`peer.routes` must be host:port");
    check(&format!("{local}\n[peer.routes]\n1 = \"n1:7000\""), "`peer.routes` are ways to the other nodes");
    check(&format!("{local}\n[peer.routes]\ntwo = \"n2:7000\""), "`two` is not the number of a node");
    check_error("[cluster]\nmax_skew_ms = 0", "`cluster.max_skew_ms` must be from 1 to 60000");
    check_error("[cluster]\nsize = 3", "unknown field `size`");
}
