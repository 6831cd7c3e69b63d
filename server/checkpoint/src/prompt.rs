//! From a prompt to the token ids that the text encoder sees.

use crate::error::CheckpointError;
use crate::read;
use jiff::Zoned;
use jiff::fmt::strtime;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Deserialize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use tokenizers::{Tokenizer, TruncationParams};

/// Tokens that the text encoder sees at most; diffusers' `max_sequence_length`.
pub const MAX_TOKENS: usize = 512;

/// Name of the one template in the environment.
const TEMPLATE: &str = "chat_template";

/// A prompt as the text encoder sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedPrompt {
    /// Token ids, the chat template's included; at most [`MAX_TOKENS`].
    pub ids: Vec<u32>,
    /// Whether the prompt had more.
    pub truncated: bool,
}

#[derive(Deserialize)]
struct TokenizerConfig {
    chat_template: Option<String>,
}

/// A checkpoint's tokenizer and chat template.
pub struct PromptEncoder {
    path: PathBuf,
    tokenizer: Tokenizer,
    environment: Environment<'static>,
}

impl PromptEncoder {
    /// Reads the `tokenizer` folder. A `chat_template.jinja` comes before the configuration's, as in transformers.
    pub(crate) fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let folder = dir.join("tokenizer");
        let path = folder.join("tokenizer.json");
        let tokenizer = read::text(&path)?;
        let mut template_path = folder.join("chat_template.jinja");
        let template = if template_path.exists() {
            read::text(&template_path)?
        } else {
            template_path = folder.join("tokenizer_config.json");
            let TokenizerConfig { chat_template } = read::json(&template_path)?;
            chat_template
                .ok_or_else(|| CheckpointError::new(&template_path, "there is no chat_template"))?
        };
        Self::new((&path, &tokenizer), (&template_path, template))
    }

    /// Of the tokenizer's and the template's texts; each file's path is named when something is wrong with it.
    pub(crate) fn new(
        (path, tokenizer): (&Path, &str),
        (template_path, template): (&Path, String),
    ) -> Result<Self, CheckpointError> {
        let mut tokenizer: Tokenizer = guarded(path, "read the tokenizer", || tokenizer.parse())?;
        // diffusers pads and then drops the padding, and cuts to its own length; neither is the file's to decide.
        tokenizer.with_padding(None);
        let truncation = TruncationParams {
            // One more, which tells that there was more; the tokenizer stops there.
            max_length: MAX_TOKENS + 1,
            ..TruncationParams::default()
        };
        tokenizer
            .with_truncation(Some(truncation))
            .map_err(CheckpointError::while_doing(path, "set the truncation"))?;

        let mut environment = Environment::new();
        // As transformers sets jinja2 up.
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        environment.set_syntax(syntax.map_err(CheckpointError::while_doing(
            template_path,
            "set the syntax up",
        ))?);
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_function("strftime_now", strftime_now);
        environment.add_function("raise_exception", raise_exception);
        environment.add_template_owned(TEMPLATE, template).map_err(
            CheckpointError::while_doing(template_path, "read the chat template"),
        )?;
        Ok(Self {
            path: template_path.to_owned(),
            tokenizer,
            environment,
        })
    }

    /// Sends a prompt through the template, which an Omni model does not use, and the tokenizer, and so the empty one that
    /// guidance leads away from. Returns the prompt's tokens.
    pub(crate) fn check(&self, vocabulary: usize, omni: bool) -> Result<usize, CheckpointError> {
        self.check_prompt("", vocabulary, omni)?;
        self.check_prompt("a red fox", vocabulary, omni)
    }

    fn check_prompt(
        &self,
        prompt: &str,
        vocabulary: usize,
        omni: bool,
    ) -> Result<usize, CheckpointError> {
        let parts = if omni {
            self.encode_parts(prompt, 0)?
        } else {
            vec![self.encode(prompt)?]
        };
        let ids: Vec<u32> = parts.into_iter().flat_map(|part| part.ids).collect();
        let problem = match ids.iter().find(|&&id| id as usize >= vocabulary) {
            Some(id) => {
                format!("token {id} is beyond the {vocabulary} that the text encoder knows")
            }
            None if ids.is_empty() => {
                format!("the chat template made no text of the prompt {prompt:?}")
            }
            None => return Ok(ids.len()),
        };
        Err(CheckpointError::new(&self.path, problem))
    }

    /// The prompt inside the chat template, as diffusers' `ZImagePipeline` asks for it.
    ///
    /// # Errors
    /// When the template fails.
    pub fn render(&self, prompt: &str) -> Result<String, CheckpointError> {
        let failed = |cause: minijinja::Error| {
            CheckpointError::while_doing(&self.path, "render the chat template")(cause)
        };
        let values = context! {
            messages => [context! { role => "user", content => prompt }],
            tools => (),
            add_generation_prompt => true,
            enable_thinking => true,
        };
        self.environment
            .get_template(TEMPLATE)
            .and_then(|template| template.render(values))
            .map_err(failed)
    }

    /// The token ids of the prompt inside the chat template.
    ///
    /// # Errors
    /// When the template or the tokenizer fails.
    pub fn encode(&self, prompt: &str) -> Result<EncodedPrompt, CheckpointError> {
        self.tokens(self.render(prompt)?)
    }

    /// The token ids of the parts of an Omni model's prompt: one before each of `references` condition images, one before
    /// the image that is made, and one behind it. Without condition images it is a single part.
    ///
    /// diffusers' `ZImageOmniPipeline` writes the template itself and cuts each part to [`MAX_TOKENS`].
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode_parts(
        &self,
        prompt: &str,
        references: usize,
    ) -> Result<Vec<EncodedPrompt>, CheckpointError> {
        let parts = omni_parts(prompt, references).into_iter();
        parts.map(|part| self.tokens(part)).collect()
    }

    fn tokens(&self, text: String) -> Result<EncodedPrompt, CheckpointError> {
        let encoding = guarded(&self.path, "split the prompt into tokens", || {
            self.tokenizer.encode_fast(text, true)
        })?;
        let ids = encoding.get_ids();
        Ok(EncodedPrompt {
            ids: ids.iter().take(MAX_TOKENS).copied().collect(),
            truncated: ids.len() > MAX_TOKENS,
        })
    }
}

/// Now, on this machine's clock, in Python's form; transformers gives it to templates.
fn strftime_now(form: &str) -> Result<String, minijinja::Error> {
    strtime::format(form, &Zoned::now())
        .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// How a template refuses what it is given; transformers gives it to templates.
fn raise_exception(message: String) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// The tokenizer's library panics for some damaged files; those are errors here as any other.
fn guarded<T>(
    path: &Path,
    action: &str,
    work: impl FnOnce() -> tokenizers::Result<T>,
) -> Result<T, CheckpointError> {
    // A tokenizer changes nothing of itself but a cache, whose locks a panic poisons and it then goes without.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(outcome) => outcome.map_err(CheckpointError::while_doing(path, action)),
        Err(_) => Err(CheckpointError::new(
            path,
            format_args!(
                "failed to {action}: the file is damaged in a way that its reader does not expect"
            ),
        )),
    }
}

/// An Omni model's prompt between the images.
fn omni_parts(prompt: &str, references: usize) -> Vec<String> {
    let answer = format!("{prompt}<|im_end|>\n<|im_start|>assistant\n");
    if references == 0 {
        return vec![format!("<|im_start|>user\n{answer}")];
    }
    let mut parts = vec!["<|im_start|>user\n<|vision_start|>".to_owned()];
    parts.resize(references, "<|vision_end|><|vision_start|>".to_owned());
    parts.push(format!("<|vision_end|>{answer}<|vision_start|>"));
    parts.push("<|vision_end|><|im_end|>".to_owned());
    parts
}

#[cfg(test)]
mod tests {
    use super::omni_parts;

    #[test]
    fn omni_prompt_leaves_a_place_for_each_image() {
        assert_eq!(
            omni_parts("a cat", 0).concat(),
            "<|im_start|>user\na cat<|im_end|>\n<|im_start|>assistant\n"
        );
        let parts = omni_parts("a cat", 2);
        assert_eq!(parts.len(), 4);
        assert_eq!(
            parts.join("#"),
            "<|im_start|>user\n<|vision_start|>#<|vision_end|><|vision_start|>#<|vision_end|>a cat<|im_end|>\n\
             <|im_start|>assistant\n<|vision_start|>#<|vision_end|><|im_end|>"
        );
    }
}
