//! Tables of command lines with the settings or the refusal that they give.

use std::ffi::OsString;
use std::time::Duration;

use bbb_sockaddr::{Flags as Link, Interface, InterfaceAddress, Interfaces};
use clap::CommandFactory;
use proptest::prelude::*;

use super::*;

fn words(line: &[&str]) -> Vec<OsString> {
    std::iter::once("buildbuildbuild").chain(line.iter().copied()).map(OsString::from).collect()
}

fn machine() -> Machine {
    let flags = Link { up: true, broadcast: true, ..Link::default() };
    let interface = Interface { index: 2, name: "eth0".to_owned(), flags, ..Interface::default() };
    let entry = InterfaceAddress {
        address: "10.1.2.3/24".parse().unwrap(),
        interface: std::sync::Arc::new(interface),
    };
    Machine {
        interfaces: Interfaces::new(vec![entry], Some("eth0".to_owned())),
        host_name: "builder".to_owned(),
        unique: "0f3a".to_owned(),
        memory_bytes: 16 << 30,
        cores: 4,
        cache_dir: Some("/home/someone/.cache/buildbuildbuild".into()),
    }
}

fn flags(line: &[&str]) -> Result<Flags, Refusal> {
    match parse(words(line))? {
        Invocation::Node(flags) => Ok(*flags),
        other => panic!("{line:?} gave {other:?}"),
    }
}

fn settings(line: &[&str]) -> Settings {
    flags(line).and_then(|flags| Settings::resolve(&flags, &machine())).unwrap_or_else(|error| {
        panic!("{line:?}: {error}");
    })
}

fn refusal(line: &[&str]) -> String {
    let result = flags(line).and_then(|flags| Settings::resolve(&flags, &machine()));
    let text = result.expect_err(&format!("{line:?}")).to_string();
    assert_eq!(text.lines().count(), 1, "{line:?}: {text}");
    text
}

#[test]
fn no_flags_at_all_give_the_documented_defaults() {
    let settings = settings(&[]);
    assert_eq!(settings.listen.to_string(), "10.1.2.3:1234");
    assert_eq!(settings.client_host.to_string(), "10.1.2.3");
    assert_eq!(settings.required_header, None);
    assert_eq!(settings.node_name, "builder-0f3a");
    assert_eq!(settings.cache_dir.to_str(), Some("/home/someone/.cache/buildbuildbuild"));
    assert!(settings.cache_size_bytes > 0);
    assert_eq!(settings.memory_bytes, 2 << 30);
    assert_eq!((settings.worker_slots, settings.download_concurrency), (0, 10));
    let names: Vec<_> = settings.platform.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["Arch", "OSFamily"]);
    assert_eq!((settings.sandbox, settings.sandbox_network), (SandboxChoice::Auto, false));
    assert_eq!(settings.action_timeout, Duration::from_secs(3_600));
    assert_eq!(settings.drain_timeout, Duration::from_secs(300));
    assert!(settings.client_results);
    assert_eq!(settings.keep_exec_root, KeepExecRoot::Never);
    assert_eq!((settings.log_filter.as_str(), settings.log_format), ("info", LogFormat::Text));
    assert!(settings.notes().is_empty());
}

#[test]
fn values_are_written_in_gos_ways_and_clap_s() {
    let slots = |line: &[&str]| settings(line).worker_slots;
    for line in [
        &["--worker_slots=4"][..],
        &["--worker_slots", "4"],
        &["-worker_slots=4"],
        &["-worker_slots", "4"],
        &["--client_results", "-worker_slots", "4"],
        &["--sandbox_network", "true", "--worker_slots=4"],
    ] {
        assert_eq!(slots(line), 4, "{line:?}");
    }
    for (line, expected) in [
        (&["--compress"][..], Some("true")),
        (&["-compress=false"], Some("false")),
        (&["--compress", "false"], Some("false")),
        (&["--compress", "-port=1"], Some("true")),
        (&[], None),
    ] {
        assert_eq!(flags(line).unwrap().compress.as_deref(), expected, "{line:?}");
    }
    // Values may start with a dash, and have equals signs.
    let header = flags(&["-required_header", "-x=--y=z"]).unwrap().required_header;
    assert_eq!(header.as_deref(), Some("-x=--y=z"));
    let twice = flags(&["--platform=a=1", "--platform", "b=2"]).unwrap().platform;
    assert_eq!(twice, ["a=1", "b=2"]);
}

#[test]
fn subcommands_take_their_own_words() {
    for template in ["{{ GetPrivateIP }}", "-x", "--port=1", ""] {
        let tool = Tool::Sockaddr { template: template.to_owned() };
        assert_eq!(parse(words(&["sockaddr", template])), Ok(Invocation::Tool(tool)), "{template}");
    }
    let told = |line: &[&str]| parse(words(line)).unwrap_err().to_string();
    assert_eq!(
        told(&["--port=1", "sockaddr", "x"]),
        "--port is for running a node, not for sockaddr: leave it out"
    );
    assert!(told(&["sockaddr"]).contains("required"), "{}", told(&["sockaddr"]));
    assert_eq!(
        told(&["nope"]),
        "unexpected \"nope\": flags start with --, and subcommands are sockaddr, bench; see --help"
    );
    for help in ["-h", "--help", "-help", "-V", "--version", "-version"] {
        assert!(matches!(parse(words(&[help])), Ok(Invocation::Print(_))), "{help}");
    }
}

/// Reads one setting as text.
type Read = fn(&Settings) -> String;

#[test]
fn each_value_is_parsed() {
    let table: [(&str, Read, &str); 35] = [
        ("--listen=127.0.0.1", |s| s.listen.to_string(), "127.0.0.1:1234"),
        ("--listen=localhost", |s| s.listen.to_string(), "127.0.0.1:1234"),
        ("--listen=[::1]", |s| s.listen.to_string(), "[::1]:1234"),
        ("--listen={{ GetInterfaceIP `eth0` }}", |s| s.listen.to_string(), "10.1.2.3:1234"),
        ("--listen={{ GetPublicIP }}", |s| s.listen.to_string(), "127.0.0.1:1234"),
        ("--listen={{ GetPublicIP }}", |s| s.notes().len().to_string(), "1"),
        ("--listen=0.0.0.0", |s| s.client_host.to_string(), "10.1.2.3"),
        ("--port=0", |s| s.listen.port().to_string(), "0"),
        ("--required_header=X-Key=a=b", |s| s.required_header.clone().unwrap().value, "a=b"),
        ("--required_header=X-Key=a=b", |s| format!("{:?}", s.required_header), "Some(x-key=...)"),
        ("--node_name=n-1.x", |s| s.node_name.clone(), "n-1.x"),
        ("--cache_dir=/x/../y", |s| s.cache_dir.display().to_string(), "/x/../y"),
        ("--cache_size=8GiB", |s| s.cache_size_bytes.to_string(), "8589934592"),
        ("--cache_size=1.5g", |s| s.cache_size_bytes.to_string(), "1610612736"),
        ("--cache_size=500MB", |s| s.cache_size_bytes.to_string(), "500000000"),
        ("--cache_size=2000000", |s| s.cache_size_bytes.to_string(), "2000000"),
        ("--memory=25%", |s| s.memory_bytes.to_string(), "4294967296"),
        ("--worker_slots=64", |s| s.worker_slots.to_string(), "64"),
        ("--download_concurrency=1", |s| s.download_concurrency.to_string(), "1"),
        ("--sandbox=namespaces", |s| format!("{:?}", s.sandbox), "Namespaces"),
        ("--sandbox=none", |s| format!("{:?}", s.sandbox), "None"),
        ("--sandbox_network", |s| s.sandbox_network.to_string(), "true"),
        (
            "--sandbox_folder=/usr/share",
            |s| s.sandbox_folders[0].display().to_string(),
            "/usr/share",
        ),
        ("--action_timeout=1h30m", |s| s.action_timeout.as_secs().to_string(), "5400"),
        ("--action_timeout=1.5s", |s| s.action_timeout.as_millis().to_string(), "1500"),
        ("--drain_timeout=0", |s| s.drain_timeout.as_secs().to_string(), "0"),
        ("--drain_timeout=300s", |s| s.drain_timeout.as_secs().to_string(), "300"),
        ("--client_results=false", |s| s.client_results.to_string(), "false"),
        ("--fetch_allow=10.0.0.0/8", |s| s.fetch.allow[0].to_string(), "10.0.0.0/8"),
        ("--fetch_only=Example.org:443", |s| s.fetch.only[0].to_string(), "example.org:443"),
        ("--no_cleanup_execroot=fail", |s| format!("{:?}", s.keep_exec_root), "Failed"),
        ("--loglevel=panic", |s| s.log_filter.clone(), "error"),
        ("--loglevel=WARN,bbb_storage=debug", |s| s.log_filter.clone(), "warn,bbb_storage=debug"),
        (
            "--loglevel=bbb_worker::stage=fatal",
            |s| s.log_filter.clone(),
            "info,bbb_worker::stage=error",
        ),
        ("--log_format=json", |s| format!("{:?}", s.log_format), "Json"),
    ];
    for (flag, read, expected) in table {
        assert_eq!(read(&settings(&[flag])), expected, "{flag}");
    }
    let platform = |line: &[&str]| settings(line).platform;
    assert!(platform(&["--platform=pool=gpu"]).contains(&("pool".to_owned(), "gpu".to_owned())));
    assert_eq!(
        platform(&["--platform=OSFamily=x", "--platform=Arch="]),
        [("OSFamily".to_owned(), "x".to_owned())]
    );
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    let table = [
        (
            "--worker-slots=4",
            "unknown flag --worker-slots, did you mean --worker_slots?; see --help",
        ),
        ("-prot=4", "unknown flag -prot, did you mean --port?; see --help"),
        ("--zzz", "unknown flag --zzz; see --help"),
        ("-p=4", "unknown flag -p; see --help"),
        ("---port=4", "unknown flag ---port"),
        ("--", "unknown flag --; see --help"),
        ("--port", "--port needs a value: --port=PORT"),
        ("--port=70000", "--port=70000: use a port from 0 to 65535"),
        ("--port=+80", "--port=+80: use a port"),
        ("--listen={{ nope }}", "--listen={{ nope }}: column 4: unknown function \"nope\""),
        ("--listen=example.org", "--listen=example.org: use an IP address"),
        ("--listen=10.0.0.1:80", "--listen=10.0.0.1:80: use an IP address"),
        ("--listen=1.1.1.1 2.2.2.2", "use one IP address (| limit 1)"),
        ("--listen={{ GetAllInterfaces }}", "gives \"[10.1.2.3/24"),
        ("--required_header=secret", "--required_header=...: use name=value"),
        ("--required_header=X-Key= a", "must be visible ASCII, without spaces around it"),
        ("--required_header=a b=c", "the name before = must be that of a header"),
        ("--required_header=key-bin=c", "gRPC keeps this name"),
        ("--node_name=a b", "--node_name=a b: use up to 100 letters"),
        ("--cluster_name=", "--cluster_name=: use up to 100 letters"),
        (
            "--cache_size=8XB",
            "--cache_size=8XB: use a size of at least 1 MiB, like 8GiB, 500MB or 25%",
        ),
        ("--cache_size=1", "use a size of at least 1 MiB"),
        ("--cache_size=101%", "use a size"),
        ("--memory=-1", "--memory=-1: use a size of at least 16 MiB"),
        ("--worker_slots=-1", "--worker_slots=-1: use a number from 0 to 4096"),
        ("--download_concurrency=0", "use a number from 1 to 1000"),
        ("--compress=maybe", "--compress=maybe: use true or false"),
        ("--no_cleanup_execroot=none", "--no_cleanup_execroot=none: use fail or all"),
        ("--sandbox=docker", "--sandbox=docker: use auto or namespaces or none"),
        ("--sandbox_folder=data", "--sandbox_folder=data: use an absolute path"),
        ("--action_timeout=0", "use a duration more than 0, like 300s"),
        (
            "--action_timeout=300",
            "--action_timeout=300: use a duration more than 0, like 300s, 5m or 1h30m",
        ),
        ("--drain_timeout=5x", "--drain_timeout=5x: use a duration, like"),
        ("--expire_after=9999999d", "use a duration more than 0"),
        ("--platform=linux", "--platform=linux: use name=value"),
        ("--loglevel=loud", "--loglevel=loud: use panic, fatal, error"),
        ("--loglevel=info,debug", "--loglevel=info,debug: use"),
        ("--log_format=xml", "--log_format=xml: use text or json"),
        ("--join=a:1,b", "--join=a:1,b: 'b' is not host:port"),
        ("--bind_port=x", "--bind_port=x: use a port from 0 to 65535"),
        ("--advertise_port=0", "--advertise_port=0: use a port from 1 to 65535"),
        ("--advertise_host=0.0.0.0", "--advertise_host=0.0.0.0: other nodes cannot send to it"),
        ("--advertise_host=x", "--advertise_host=x: use an IP address"),
        (
            "--autojoin_udp=10.0.0.255",
            "--autojoin_udp=10.0.0.255: '10.0.0.255' is not a broadcast address",
        ),
        ("--fetch_allow=a b", "--fetch_allow=a b: use a host, host:port, address or network"),
        ("--node_name=a\nb", "--node_name=a\\nb: use up to"),
        // Contradictions.
        ("--endpoint=https://s3.example.org", "--endpoint needs --bucket"),
        ("--autojoin_s3=members", "--autojoin_s3 needs --bucket"),
        ("--join=a:1", "--join needs --bucket: a cluster shares one bucket, so give --bucket"),
        ("--secret_key=K3ytopsecretR0XbW9Zq7LmT2vNs8JdYc5Hf", "--secret_key needs --bucket"),
        ("--secret_key=topsecret", "--secret_key: key 1: secret key is weak: it is worth about"),
        ("--secret_key=", "--secret_key: key 1: secret key is missing; make one with"),
        ("--expire_after=30d", "--expire_after needs --bucket"),
        ("--write_back", "--write_back needs --bucket"),
        ("--tls_cert=a", "--tls_cert and --tls_key belong together"),
        ("--secret_key_file=/nowhere", "--secret_key_file: /nowhere cannot be read: No such file"),
    ];
    for (flag, expected) in table {
        let told = refusal(&[flag]);
        assert!(told.contains(expected), "{flag}\n  gave: {told}\n  not:  {expected}");
        assert!(!told.contains("topsecret"), "{told}");
    }
    let table: [(&[&str], &str); 9] = [
        (&["--bucket="], "--bucket=: '' names no bucket; write name, s3://name/prefix or"),
        (&["--bucket=ab"], "--bucket=ab: 'ab' is no bucket name"),
        (&["--bucket=abc", "--expire_after=5s"], "--expire_after=5s: use at least 1m"),
        (&["--port=1", "-port=2"], "--port is given more than once"),
        (&["--join", "--compress"], "--join needs a value: --join=HOST:PORT,..."),
        (
            &["--secret_key=a", "--secret_key_file=b"],
            "--secret_key and --secret_key_file are both given",
        ),
        (&["--bind_host=127.0.0.1", "--advertise_host=::1"], "are of different IP versions"),
        (&["--tls_client_ca=a"], "--tls_client_ca needs --tls_cert and --tls_key"),
        (
            &["--sandbox=none", "--sandbox_network=false"],
            "--sandbox=none cannot keep actions from the network",
        ),
    ];
    for (line, expected) in table {
        assert!(refusal(line).contains(expected), "{line:?} gave {}", refusal(line));
    }
}

#[test]
fn a_bucket_is_what_its_flags_say() {
    let plain = settings(&["--bucket=builds"]).bucket.unwrap();
    assert_eq!(
        (plain.location.to_string().as_str(), plain.region.as_str()),
        ("s3://builds", "us-east-1")
    );
    assert!(plain.compress && !plain.write_back && !plain.virtual_hosted_style);
    assert_eq!((plain.endpoint, plain.expire_after), (None, None));
    let all = settings(&[
        "--bucket=s3://builds/ci",
        "--region=eu-central-1",
        "--endpoint=https://s3.example.org",
        "--virtual_hosted_style",
        "--compress=false",
        "--expire_after=30d",
        "--write_back",
    ]);
    let all = all.bucket.unwrap();
    assert_eq!(
        (all.location.to_string().as_str(), all.region.as_str()),
        ("s3://builds/ci", "eu-central-1")
    );
    assert_eq!(all.endpoint.as_deref(), Some("https://s3.example.org"));
    assert!(!all.compress && all.write_back && all.virtual_hosted_style);
    assert_eq!(all.expire_after, Some(Duration::from_secs(30 * 24 * 3600)));
    assert!(settings(&["--compress=false"]).bucket.is_none());
}

const NEW: &str = "K3yR0XbW9Zq7LmT2vNs8JdYc5HfPa1Ge4uQw6Ei";
const OLD: &str = "0ldR0XbW9Zq7LmT2vNs8JdYc5HfPa1Ge4uQw6Ei";

fn cluster(line: &[&str]) -> ClusterFlags {
    settings(&[&["--bucket=builds"], line].concat()).cluster.expect("a cluster")
}

#[test]
fn a_bucket_makes_a_node_part_of_a_cluster() {
    assert_eq!(settings(&[]).cluster, None);
    assert_eq!(settings(&["--bind_host=10.1.2.3", "--cluster_name=c"]).cluster, None);
    let plain = cluster(&[]);
    assert_eq!(
        (plain.name.as_str(), plain.bind.to_string()),
        ("default_cluster", "10.1.2.3:7946".into())
    );
    assert_eq!(
        (plain.advertise_host.to_string().as_str(), plain.advertise_port),
        ("10.1.2.3", None)
    );
    assert_eq!(plain.autojoin_udp[0].to_string(), "10.1.2.255:9876");
    assert_eq!((plain.autojoin_s3, plain.join, plain.secret_keys), (None, vec![], vec![]));
    let bound = |text: &str| text.parse().unwrap();
    let all = cluster(&[
        "--cluster_name=c",
        "--bind_host=0.0.0.0",
        "--bind_port=0",
        "--advertise_host={{ GetInterfaceIP `eth0` }}",
        "--advertise_port=80",
        "--autojoin_udp=239.0.0.1:99",
        "--autojoin_s3=members",
        "--join=a:1, [::1]:2",
        &format!("--secret_key={NEW},{OLD}"),
    ]);
    assert_eq!((all.name.as_str(), all.bind.to_string()), ("c", "0.0.0.0:0".into()));
    assert_eq!(all.advertised_gossip(bound("0.0.0.0:5")).to_string(), "10.1.2.3:80");
    assert_eq!(all.advertised_port(bound("0.0.0.0:5")).to_string(), "10.1.2.3:5");
    assert_eq!(all.autojoin_udp[0].to_string(), "239.0.0.1:99");
    assert_eq!(all.autojoin_s3.as_deref(), Some("members"));
    assert_eq!(all.join, ["a:1", "[::1]:2"].map(|host| host.parse().unwrap()));
    assert_eq!(all.secret_keys, [NEW, OLD].map(|key| key.parse().unwrap()));
    assert!(!format!("{all:?}").contains(OLD));
    assert_eq!(cluster(&["--bind_port=0"]).advertised_gossip(bound("10.1.2.3:5")).port(), 5);
}

/// Reads one setting of the cluster as text.
type ReadCluster = fn(&ClusterFlags) -> String;

#[test]
fn addresses_of_a_cluster_follow_from_each_other() {
    let bind: ReadCluster = |cluster| cluster.bind.ip().to_string();
    let advertise: ReadCluster = |cluster| cluster.advertise_host.to_string();
    let udp: ReadCluster = |cluster| cluster.autojoin_udp.len().to_string();
    let table: [(&[&str], ReadCluster, &str); 14] = [
        (&["--bind_host=127.0.0.1"], bind, "127.0.0.1"),
        (&["--bind_host=127.0.0.1"], advertise, "127.0.0.1"),
        (&["--bind_host=127.0.0.1"], udp, "0"),
        (&["--bind_host=0.0.0.0"], advertise, "10.1.2.3"),
        (&["--bind_host=::"], advertise, "10.1.2.3"),
        (&["--bind_host=::1"], advertise, "::1"),
        (&["--advertise_host=192.0.2.1"], bind, "10.1.2.3"),
        // Who serves this machine alone gossips there alone.
        (&["--listen=127.0.0.1"], bind, "127.0.0.1"),
        (&["--listen=127.0.0.1"], advertise, "127.0.0.1"),
        (&["--listen=127.0.0.1"], udp, "0"),
        (&["--listen=127.0.0.1", "--bind_host=10.1.2.3"], advertise, "10.1.2.3"),
        (&["--listen=0.0.0.0"], advertise, "10.1.2.3"),
        (&["--autojoin_udp=false"], udp, "0"),
        (&["--autojoin_udp="], udp, "0"),
    ];
    for (line, read, expected) in table {
        assert_eq!(read(&cluster(line)), expected, "{line:?}");
    }
    let nothing = settings(&["--bucket=builds", "--autojoin_udp={{ GetPublicIP }}:9876"]);
    assert!(nothing.notes()[0].ends_with("gives no address on this machine: it is off"));
    assert_eq!(nothing.cluster.unwrap().autojoin_udp, []);
}

#[test]
fn a_machine_without_a_private_address_is_in_no_cluster_unless_it_is_told_one() {
    let lonely = Machine { interfaces: Interfaces::default(), ..machine() };
    let resolve = |line: &[&str]| {
        Settings::resolve(&flags(&[&["--bucket=builds"], line].concat()).unwrap(), &lonely)
    };
    let alone = resolve(&[]).unwrap();
    assert_eq!(alone.cluster, None);
    assert!(
        alone.notes().iter().any(|note| note.contains("give --advertise_host")),
        "{:?}",
        alone.notes()
    );
    let told = resolve(&["--join=a:1"]).unwrap_err().to_string();
    assert!(told.starts_with("--join: this machine has no private address, so give"), "{told}");
    let public = resolve(&["--advertise_host=192.0.2.1"]).unwrap().cluster.unwrap();
    assert_eq!(public.bind.to_string(), "0.0.0.0:7946");
}

#[test]
fn keys_come_from_a_file_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let flag = format!("--secret_key_file={}", path.display());
    std::fs::write(&path, format!("# the new one\n {NEW} \n\n{OLD}\n")).unwrap();
    let keys = cluster(&[&flag]).secret_keys;
    assert_eq!(keys, [NEW, OLD].map(|key| key.parse().unwrap()));
    std::fs::write(&path, "# none\n").unwrap();
    assert!(refusal(&["--bucket=builds", &flag]).contains("secret key is missing"));
}

#[test]
fn a_machine_without_a_home_needs_a_cache_folder() {
    let homeless = Machine { cache_dir: None, ..machine() };
    let told = Settings::resolve(&Flags::default(), &homeless).unwrap_err().to_string();
    assert!(told.contains("--cache_dir=: this user has no home folder"), "{told}");
}

/// The names of FLAGS in the project's documentation, in the order of its tables.
const DOCUMENTED: &str = "listen port required_header cluster_name node_name bind_host bind_port \
    advertise_host advertise_port autojoin_s3 autojoin_udp join secret_key secret_key_file bucket region \
    cache_dir worker_slots download_concurrency compress no_cleanup_execroot loglevel | endpoint \
    virtual_hosted_style cache_size memory expire_after write_back platform sandbox sandbox_network sandbox_folder action_timeout \
    drain_timeout tls_cert tls_key tls_client_ca client_results fetch_allow fetch_only log_format";

#[test]
fn help_has_every_flag_in_the_documented_order() {
    let command = Flags::command();
    let names: Vec<_> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
    let documented: Vec<_> = DOCUMENTED.split_whitespace().filter(|name| *name != "|").collect();
    assert_eq!(names, documented);
    let Ok(Invocation::Print(help)) = parse(words(&["--help"])) else { panic!("no help") };
    let mut rest = help.as_str();
    for name in DOCUMENTED.replace('|', "own:").split_whitespace() {
        let at =
            rest.find(name).unwrap_or_else(|| panic!("{name} is not there, or too early:\n{help}"));
        rest = &rest[at..];
    }
    for default in
        ["1234", "default_cluster", "7946", "us-east-1", "info", "1h", "5m", "auto", "text"]
    {
        assert!(help.contains(&format!("[default: {default}]")), "{default}");
    }
}

proptest! {
    #[test]
    fn no_command_line_panics(
        line in prop::collection::vec(
            prop_oneof![
                "-{0,3}[a-z_]{0,12}(=\\PC{0,8})?",
                prop::sample::select(DOCUMENTED.split_whitespace().collect::<Vec<_>>())
                    .prop_flat_map(|name| ("--?", "(=\\PC{0,8}|=[0-9.]{1,4}[a-zA-Z%]{0,3})?")
                        .prop_map(move |(dashes, value)| format!("{dashes}{name}{value}"))),
                "\\PC{0,10}",
            ],
            0..6,
        )
    ) {
        let line = std::iter::once("buildbuildbuild".to_owned()).chain(line).map(OsString::from);
        match parse(line) {
            Ok(Invocation::Node(flags)) => {
                if let Err(refusal) = Settings::resolve(&flags, &machine()) {
                    prop_assert_eq!(refusal.to_string().lines().count(), 1);
                }
            }
            Ok(_) => {}
            Err(refusal) => prop_assert_eq!(refusal.to_string().lines().count(), 1),
        }
    }

    #[test]
    fn bytes_for_people_are_not_far_off(bytes: u64) {
        let text = format_bytes(bytes);
        let parsed = units::parse_bytes(&text.replace(" bytes", "")).unwrap();
        prop_assert!(parsed <= bytes && bytes - parsed <= bytes / 10, "{} {}", bytes, text);
    }
}
