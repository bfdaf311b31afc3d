//! Custom resource `StreamStage` (`streamstage.dev/v1alpha1`): the desired state of a stage, written by users.
//!
//! Defines the types, their bounds, CEL rules and defaults, and never contacts a cluster.
//! The operator watches the resource; the worker reads the same document from a file.

mod addresses;
mod bytes;
mod duration;
mod max_step;
mod names;
mod pod_schema;
mod pod_template;
mod processing;
mod rules;
mod scaling;
mod schedule;
mod source;
mod spec;
mod validate;
mod violations;
mod warehouse;
mod worker_pod;

pub use self::{
    bytes::{Bytes, BytesError},
    duration::{Duration, DurationError},
    max_step::{MaxStep, MaxStepError},
    names::{is_label_name, is_object_name},
    pod_template::{
        DOCUMENT_VOLUME, PodOptions, PodTemplate, PodVolume, RESERVED_FOLDER, SECRET_VOLUME_PREFIX,
        WORKER_CONTAINER, WorkerContainer,
    },
    processing::{Batch, DeadLetter, Limits, Output, ReferenceData, TagRule},
    scaling::{OnLagUnknown, ScaleDown, ScaleUp, Scaling, ScalingMode, Target},
    schedule::{Schedule, ScheduleError},
    source::{Source, StartFrom, StartFromError},
    spec::{Layer, StreamStage, StreamStageSpec},
    validate::validate,
    violations::Violation,
    warehouse::{SslMode, Warehouse},
    worker_pod::WorkerPod,
};
