//! Nothing is ready that cannot make an image: the real program with models that look sound and are not.
#![expect(clippy::unwrap_used, reason = "a test fails with the error it unwraps")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);
/// The exit code of a model that is broken.
const MODEL_INVALID: i32 = 3;

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_zimage-server"));
    program.env("RUST_BACKTRACE", "1");
    program
}

fn model() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let made = program()
        .args(["make-model", "--out"])
        .arg(dir.path().join("m"))
        .output();
    assert!(made.unwrap().status.success());
    dir
}

fn verify(dir: &Path, flags: &[&str]) -> Output {
    let model = dir.join("m");
    program()
        .arg("verify")
        .arg("--model")
        .arg(model)
        .args(flags)
        .output()
        .unwrap()
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// A server that ends with the test.
struct Server {
    process: Child,
    api: SocketAddr,
}

impl Server {
    fn start(dir: &Path, flags: &[&str]) -> Self {
        let (api, metrics) = (free(), free());
        let log = fs::File::create(dir.join("log")).unwrap();
        let process = program()
            .arg("serve")
            .arg("--model")
            .arg(dir.join("m"))
            .args([
                format!("--listen={api}"),
                format!("--metrics-listen={metrics}"),
            ])
            .args(["--device=cpu", "--lame-duck-seconds=0"])
            .args(flags)
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        Self { process, api }
    }

    fn until_ready(&self) {
        let until = Instant::now() + PATIENCE;
        while !get(self.api, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            assert!(Instant::now() < until, "never ready");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The exit code; the server must never have been ready.
    fn code_of_end(&mut self) -> Option<i32> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code();
            }
            let ready = get(self.api, "/readyz");
            assert!(
                !ready.is_some_and(|answer| answer.starts_with("HTTP/1.1 200")),
                "ready"
            );
            assert!(Instant::now() < until, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _code = self.process.wait();
    }
}

fn refused(dir: &Path, flags: &[&str]) -> String {
    let mut server = Server::start(dir, flags);
    assert_eq!(server.code_of_end(), Some(MODEL_INVALID));
    let log = fs::read_to_string(dir.join("log")).unwrap();
    let line = log.lines().find(|line| line.contains("model invalid: "));
    line.unwrap_or_else(|| panic!("{log}")).to_owned()
}

/// Fills the second half of a file, its tensors, with NaN.
fn spoil(path: &Path) {
    let mut content = fs::read(path).unwrap();
    let half = content.len() / 2;
    content[half..].fill(0xff);
    fs::write(path, content).unwrap();
}

/// Makes the last value of a tensor NaN.
fn spoil_last(path: &Path, tensor: &str) {
    let mut content = fs::read(path).unwrap();
    let length = u64::from_le_bytes(content[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&content[8..8 + length]).unwrap();
    let end = header[tensor]["data_offsets"][1].as_u64().unwrap() as usize;
    let end = 8 + length + end;
    content[end - 4..end].fill(0xff);
    fs::write(path, content).unwrap();
}

#[test]
fn a_sound_model_is_ready_after_an_image_was_made() {
    let dir = model();
    let server = Server::start(dir.path(), &[]);
    server.until_ready();
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    let (made, ready) = (
        log.find("an image was made").unwrap(),
        log.find("ready").unwrap(),
    );
    assert!(made < ready, "{log}");
}

#[test]
fn weights_that_are_no_numbers_are_never_ready_and_the_file_is_named() {
    let dir = model();
    let file = "transformer/diffusion_pytorch_model.safetensors";
    spoil(&dir.path().join("m").join(file));
    let line = refused(dir.path(), &[]);
    assert!(line.contains(file) && line.contains("NaN"), "{line}");
    let verified = verify(dir.path(), &[]);
    assert_eq!(verified.status.code(), Some(MODEL_INVALID));
    assert!(String::from_utf8(verified.stderr).unwrap().contains(file));
}

#[test]
fn one_weight_that_only_some_requests_meet_keeps_a_model_from_being_ready() {
    for (file, tensor) in [
        (
            "text_encoder/model.safetensors",
            "model.embed_tokens.weight",
        ),
        (
            "vae/diffusion_pytorch_model.safetensors",
            "encoder.conv_out.weight",
        ),
    ] {
        let dir = model();
        spoil_last(&dir.path().join("m").join(file), tensor);
        let line = refused(dir.path(), &[]);
        assert!(line.contains(file) && line.contains("NaN"), "{line}");
    }
}

#[test]
fn a_lora_whose_factors_are_no_numbers_is_never_ready_and_is_named() {
    let dir = model();
    let config = fs::read_to_string(dir.path().join("m/transformer/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let dim = config["dim"].as_u64().unwrap() as usize;
    let bytes = 4 * dim;
    let header = serde_json::json!({
        "layers.0.attention.to_q.lora_A.weight":
            {"dtype": "F32", "shape": [1, dim], "data_offsets": [0, bytes]},
        "layers.0.attention.to_q.lora_B.weight":
            {"dtype": "F32", "shape": [dim, 1], "data_offsets": [bytes, 2 * bytes]},
    });
    let header = header.to_string().into_bytes();
    let size = (header.len() as u64).to_le_bytes();
    let lora = dir.path().join("style.safetensors");
    let content = [&size[..], &header, &f32::NAN.to_le_bytes().repeat(2 * dim)].concat();
    fs::write(&lora, content).unwrap();
    let line = refused(dir.path(), &["--lora", lora.to_str().unwrap()]);
    assert!(line.contains("style.safetensors"), "{line}");
}

#[test]
fn a_template_that_cannot_be_rendered_is_never_ready_and_is_named() {
    let dir = model();
    let template = dir.path().join("m/tokenizer/chat_template.jinja");
    fs::write(template, "{{ no_such_function() }}").unwrap();
    let line = refused(dir.path(), &[]);
    assert!(line.contains("chat_template.jinja"), "{line}");
    assert_eq!(verify(dir.path(), &[]).status.code(), Some(MODEL_INVALID));
}

#[test]
fn verify_says_what_it_did_and_makes_an_image_when_asked_to() {
    let dir = model();
    let said = |flags: &[&str]| {
        let output = verify(dir.path(), flags);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let plain = said(&[]);
    assert!(plain.contains("every value is finite"), "{plain}");
    assert!(
        plain.contains("tokens of a prompt") && plain.contains("no image was made"),
        "{plain}"
    );
    let made = said(&["--make-image", "--device=cpu"]);
    assert!(made.contains("an image of 64x64 was made"), "{made}");
}
