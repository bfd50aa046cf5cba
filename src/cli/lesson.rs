//! The verbs for lessons.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::LabOption;
use crate::lesson::Language;

/// Verbs for lessons
#[derive(Debug, Subcommand)]
pub enum Lesson {
    /// List the lessons
    List(LessonLanguage),
    /// Show a lesson: what it is about, and its tasks
    Show(LessonShow),
    /// Play a lesson as a demonstration, or leave its steps to the student and check them
    Run(LessonRun),
    /// Grade a lab as it is now
    Check(LessonCheck),
}

/// Language of a lesson
#[derive(Args, Clone, Copy, Debug)]
pub struct LessonLanguage {
    /// Language of the texts, where they are in it
    #[arg(long, value_enum, default_value_t, env = "PGPROV_LANGUAGE", value_name = "LANGUAGE")]
    pub language: Language,
}

/// Arguments of lesson show
#[derive(Args, Debug)]
pub struct LessonShow {
    /// Name of the lesson, or its file
    pub lesson: String,
    /// Language
    #[command(flatten)]
    pub language: LessonLanguage,
}

/// Arguments of lesson run
#[derive(Args, Debug)]
pub struct LessonRun {
    /// The lab
    #[command(flatten)]
    pub lab: LabOption,
    /// Name of the lesson, or its file
    pub lesson: String,
    /// Leave the steps to the student, and check them
    #[arg(short, long)]
    pub interactive: bool,
    /// Take the lab back to checkpoint `ready` first
    #[arg(long)]
    pub reset: bool,
    /// Seconds that a student may take for a step
    #[arg(long, default_value_t = 900, value_name = "SECONDS", requires = "interactive")]
    pub patience: u64,
    /// Language
    #[command(flatten)]
    pub language: LessonLanguage,
    /// Folder for the report [default: lessons/ in the state directory of the lab, one folder a run]
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
}

/// Arguments of lesson check
#[derive(Args, Debug)]
pub struct LessonCheck {
    /// The lab
    #[command(flatten)]
    pub lab: LabOption,
    /// Name of the lesson, or its file
    pub lesson: String,
    /// Check what this step wants [default: how the lab has to be at the end]
    #[arg(long, value_name = "STEP")]
    pub step: Option<String>,
    /// Language
    #[command(flatten)]
    pub language: LessonLanguage,
    /// Folder for the report [default: none is written]
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
}
