//! What `configs/` says about running the program elsewhere: in containers, on Kubernetes and
//! behind HAProxy. Checked against the program itself, and against each other.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use parse_size::Config;
use serde_json::Value as Yaml;
use toml::{Table, Value};

use crate::support::program;

/// An idle connection takes 4.4 KiB (`ci/idle.sh`).
const CONNECTION_BYTES: u64 = 5 << 10;
/// The program, its threads and the tables of the arena.
const PROGRAM_BYTES: u64 = 16 << 20;
/// What the kernel's buffers of sockets may take at the least.
const SOCKETS_BYTES: u64 = 64 << 20;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All documents of a file.
fn documents(path: &str) -> Vec<Yaml> {
    let read = serde_saphyr::from_multiple(&text(path));
    read.unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn all_documents() -> Vec<Yaml> {
    let files = fs::read_dir(root().join("configs/kubernetes")).expect("a folder");
    let names = files.map(|file| file.expect("a file").file_name().into_string().expect("text"));
    names.flat_map(|name| documents(&format!("configs/kubernetes/{name}"))).collect()
}

fn server_document(kind: &str) -> Yaml {
    let mut documents = documents("configs/kubernetes/arena-echo.yaml").into_iter();
    documents.find(|document| document["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

fn pod() -> Yaml {
    server_document("Deployment")["spec"]["template"].clone()
}

fn container() -> Yaml {
    pod()["spec"]["containers"][0].clone()
}

fn strings(list: &Yaml) -> Vec<String> {
    let strings = list.as_array().expect("a list").iter();
    strings.map(|item| item.as_str().expect("text").to_owned()).collect()
}

/// What is in effect with the flags of the manifest.
fn effective() -> Table {
    let mut command = Command::new(program::PATH);
    command.env_clear().args(["config", "--print"]).args(strings(&container()["args"]));
    let output = command.output().expect("the program starts");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaint.is_empty(), "{complaint}");
    String::from_utf8(output.stdout).expect("text").parse().expect("TOML")
}

fn bytes(size: &str) -> u64 {
    Config::new().with_binary().parse_size(size).unwrap_or_else(|error| panic!("{size}: {error}"))
}

fn size(settings: &Table, key: &str) -> u64 {
    bytes(settings[key].as_str().expect("a size"))
}

fn seconds(settings: &Table, key: &str) -> u64 {
    let text = settings[key].as_str().expect("a time");
    humantime::parse_duration(text).expect("a time").as_secs()
}

/// The port of an address.
fn port(address: &str) -> u64 {
    address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port")
}

fn echo_port(settings: &Table) -> u64 {
    port(settings["listen"][0].as_str().expect("an address"))
}

fn admin_port(settings: &Table) -> u64 {
    port(settings["admin"].as_str().expect("an address"))
}

/// The port of the container that has this name, or is this number.
fn container_port(port: &Yaml) -> Option<u64> {
    let ports = container()["ports"].as_array().expect("ports").clone();
    let wanted = |item: &&Yaml| item["name"] == *port || item["containerPort"] == *port;
    ports.iter().find(wanted).and_then(|item| item["containerPort"].as_u64())
}

#[test]
fn every_manifest_is_yaml_of_a_known_kind() {
    let kinds: BTreeSet<_> = all_documents()
        .iter()
        .map(|document| {
            assert!(document["apiVersion"].is_string(), "{document}");
            assert!(document["metadata"]["name"].is_string(), "{document}");
            document["kind"].as_str().expect("a kind").to_owned()
        })
        .collect();
    let expected = [
        "ConfigMap",
        "Deployment",
        "HorizontalPodAutoscaler",
        "Job",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "Service",
    ];
    assert_eq!(kinds, expected.map(str::to_owned).into());
}

#[test]
fn the_program_accepts_the_flags_of_the_deployment() {
    let settings = effective();
    assert_eq!(settings["mode"], Value::from("buddy"));
    let is_local = |address: &str| address.starts_with("127.") || address.starts_with("[::1]");
    assert!(!is_local(settings["listen"][0].as_str().unwrap()), "nobody reaches it");
    assert!(!is_local(settings["admin"].as_str().unwrap()), "no probe reaches it");
}

#[test]
fn ports_are_those_of_the_program() {
    let settings = effective();
    assert_eq!(container_port(&"echo".into()), Some(echo_port(&settings)));
    assert_eq!(container_port(&"admin".into()), Some(admin_port(&settings)));

    let service = &server_document("Service")["spec"]["ports"];
    assert_eq!(service.as_array().map(Vec::len), Some(1), "the admin port is nobody else's");
    assert_eq!(container_port(&service[0]["targetPort"]), Some(echo_port(&settings)));
    let target = format!("arena-echo:{}", service[0]["port"]);
    let load = text("configs/kubernetes/loadgen.yaml");
    assert!(load.contains(&format!("- {target}\n")), "loadgen does not load {target}");

    let annotations = &pod()["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/port"], admin_port(&settings).to_string().as_str());
    assert_eq!(annotations["prometheus.io/path"], "/metrics");
}

#[test]
fn probes_ask_the_admin_port_for_what_it_serves() {
    let container = container();
    let admin = admin_port(&effective());
    let paths = [
        ("startupProbe", "/healthz"),
        ("readinessProbe", "/readyz"),
        // A pod that drains or is out of memory is not to be killed for it.
        ("livenessProbe", "/healthz"),
    ];
    for (probe, path) in paths {
        let request = &container[probe]["httpGet"];
        assert_eq!(request["path"], path, "{probe}");
        assert_eq!(container_port(&request["port"]), Some(admin), "{probe}");
    }
}

#[test]
fn the_memory_limit_holds_what_the_flags_allow() {
    let settings = effective();
    let connections = settings["max-connections"].as_integer().expect("a count").unsigned_abs();
    let needed = size(&settings, "capacity")
        + size(&settings, "spill")
        + connections * CONNECTION_BYTES
        + PROGRAM_BYTES;
    let resources = container()["resources"].clone();
    let limit = bytes(resources["limits"]["memory"].as_str().expect("a limit"));
    assert!(
        limit >= needed + SOCKETS_BYTES,
        "{limit} bytes are not {needed} and {SOCKETS_BYTES} for sockets"
    );
    assert_eq!(resources["requests"]["memory"], resources["limits"]["memory"]);
}

#[test]
fn the_guide_adds_up_the_same_memory() {
    let guide = text("docs/operations.md");
    let connections = format!("--max-connections x {} KiB ", CONNECTION_BYTES >> 10);
    let program = format!(" + {} MiB ", PROGRAM_BYTES >> 20);
    assert!(guide.contains(&connections), "{connections}");
    assert!(guide.contains(&program), "{program}");
}

#[test]
fn a_pod_has_the_time_to_drain() {
    let settings = effective();
    let grace = pod()["spec"]["terminationGracePeriodSeconds"].as_u64().expect("seconds");
    let sleep = &container()["lifecycle"]["preStop"]["sleep"]["seconds"];
    let sleep = sleep.as_u64().expect("seconds");
    let drain = seconds(&settings, "drain-timeout");
    assert!(grace > sleep + drain, "{grace} s are not more than {sleep} s and {drain} s");
}

#[test]
fn selectors_find_the_pods() {
    let labels = pod()["metadata"]["labels"].clone();
    let deployment = server_document("Deployment");
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(server_document("Service")["spec"]["selector"], labels);
    let budget = server_document("PodDisruptionBudget");
    assert_eq!(budget["spec"]["selector"]["matchLabels"], labels);
    let policy = server_document("NetworkPolicy");
    assert_eq!(policy["spec"]["podSelector"]["matchLabels"], labels);

    let scale = documents("configs/kubernetes/autoscale.yaml");
    let target = &scale[0]["spec"]["scaleTargetRef"];
    assert_eq!(target["name"], deployment["metadata"]["name"]);
    assert!(scale[0]["spec"]["minReplicas"].as_u64() <= deployment["spec"]["replicas"].as_u64());
}

#[test]
fn the_metric_that_scales_is_made_of_metrics_that_exist() {
    let documents = documents("configs/kubernetes/autoscale.yaml");
    let metric = &documents[0]["spec"]["metrics"][0]["pods"]["metric"]["name"];
    let rules = documents[1]["data"]["config.yaml"].as_str().expect("text");
    let rules: Yaml = serde_saphyr::from_str(rules).expect("YAML");
    let rule = &rules["rules"][0];
    assert_eq!(rule["name"]["as"], *metric);
    let query = rule["metricsQuery"].as_str().expect("a query");
    for name in ["arena_bytes_live{", "arena_bytes_reserved{"] {
        assert!(query.contains(name), "{query}");
    }
}

#[test]
fn nothing_runs_as_root_or_writes_to_its_image() {
    for document in all_documents() {
        let pod = &document["spec"]["template"]["spec"];
        let Some(containers) = pod["containers"].as_array() else { continue };
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        let user = pod["securityContext"]["runAsUser"].as_u64().expect("a user");
        assert!(text("Containerfile").contains(&format!("USER {user}:{user}\n")), "{user}");
        for container in containers {
            let context = &container["securityContext"];
            assert_eq!(context["readOnlyRootFilesystem"], true);
            assert_eq!(context["allowPrivilegeEscalation"], false);
            assert_eq!(strings(&context["capabilities"]["drop"]), ["ALL"]);
        }
    }
}

#[test]
fn every_run_of_the_generator_is_merged() {
    let documents = documents("configs/kubernetes/loadgen.yaml");
    let job = |name: &str| {
        let found = documents
            .iter()
            .find(|document| document["metadata"]["name"] == name && document["kind"] == "Job");
        found.expect("a job")["spec"].clone()
    };
    let arguments = |job: &Yaml| strings(&job["template"]["spec"]["containers"][0]["args"]);
    let load = job("loadgen");
    assert_eq!(load["completionMode"], "Indexed");
    assert_eq!(load["parallelism"], load["completions"], "all at the same time");
    let written = arguments(&load)
        .into_iter()
        .find_map(|argument| argument.strip_prefix("--output=").map(str::to_owned));
    let written = written.expect("a file for each");
    let merged = arguments(&job("loadgen-merge"));
    let count = load["completions"].as_u64().expect("a count");
    for index in 0..count {
        let file = written.replace("$(JOB_COMPLETION_INDEX)", &index.to_string());
        assert!(merged.contains(&file), "{file} is not merged");
    }
    assert!(!merged.contains(&written.replace("$(JOB_COMPLETION_INDEX)", &count.to_string())));
}

#[test]
fn the_generator_accepts_the_flags_of_its_job() {
    let documents = documents("configs/kubernetes/loadgen.yaml");
    let run = documents
        .iter()
        .find(|document| document["metadata"]["name"] == "loadgen" && document["kind"] == "Job");
    let arguments = &run.expect("a job")["spec"]["template"]["spec"]["containers"][0]["args"];
    let known = text("loadgen/src/cli/mod.rs");
    for argument in strings(arguments) {
        let Some(flag) = argument.strip_prefix("--") else { continue };
        let name = flag.split('=').next().expect("a name").replace('-', "_");
        assert!(known.contains(&format!("    {name}: ")), "{argument}");
    }
}

#[test]
fn haproxy_asks_the_ports_of_the_deployment() {
    let settings = effective();
    let (echo, admin) = (echo_port(&settings), admin_port(&settings));
    let config = text("configs/haproxy.cfg");
    let lines: Vec<Vec<_>> = config
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().split_whitespace().collect())
        .collect();
    let servers: Vec<_> = lines.iter().filter(|words| words.first() == Some(&"server")).collect();
    assert!(servers.len() > 1, "several instances");
    for words in servers {
        assert_eq!(port(words[2]), echo, "{words:?}");
    }
    let mut all = lines.iter();
    let defaults = all.find(|words| words.first() == Some(&"default-server")).expect("defaults");
    let after = |word: &str| {
        let place = defaults.iter().position(|item| *item == word).expect("a word");
        defaults[place + 1].parse::<u64>().expect("a number")
    };
    assert_eq!(after("port"), admin);
    let connections = settings["max-connections"].as_integer().expect("a count").unsigned_abs();
    assert_eq!(after("maxconn"), connections);
    assert!(config.contains("option httpchk GET /readyz"));

    // An idle connection is ended by the server, which knows why.
    let timeout = |name: &str| {
        let words = lines.iter().find(|words| words.starts_with(&["timeout", name]));
        humantime::parse_duration(words.expect("a timeout")[2]).expect("a time").as_secs()
    };
    assert!(timeout("client").min(timeout("server")) > seconds(&settings, "idle-timeout"));
    assert!(timeout("server-fin") > seconds(&settings, "drain-timeout"));
}

#[test]
fn the_image_has_the_ports_of_the_deployment() {
    let settings = effective();
    let file = text("Containerfile");
    let exposed = format!("EXPOSE {} {}", echo_port(&settings), admin_port(&settings));
    assert!(file.contains(&exposed), "{exposed}");
    assert!(file.contains(&format!("ARENA_ECHO_LISTEN=:{}", echo_port(&settings))));
}
