"""Validation during a run, early stopping, and the evaluation that ends it."""

from pipeline.training.evaluate import evaluate, headline
from pipeline.training.logs.pictures import pictures
from pipeline.training.profiling.parts import part
from pipeline.training.setup import TrainingRun


@part("evaluation")
def validate(run: TrainingRun, step: int) -> None:
    """Metrics on the validation split; keeps the best student."""
    result = evaluate(run.kept, run.store, "val", run.fabric.device, run.config.batch_size, share=run.share)
    score = result["metrics"][headline(len(run.store.classes))]
    run.folder.log(step, {f"val/{k}": v for k, v in result["metrics"].items()})
    if run.fabric.is_global_zero:
        for name, picture in pictures(run.kept, run.store, run.fabric.device, run.config.pictures):
            run.folder.loggers.picture(step, f"val/{name}", picture)
    if score > run.best or run.config.labels.fraction == 0:  # without labels no step is better: the last is kept
        run.best, run.best_step = score, step
        run.folder.save_student(run.kept, run.config, run.store, run.teacher_channels, step, result["metrics"])


def is_exhausted(run: TrainingRun, done: int) -> bool:
    """Whether the last ``patience`` validations brought no better student."""
    waited = run.config.patience * run.config.validates_every
    return 0 < waited <= done - run.best_step


def finish(run: TrainingRun, done: int) -> None:
    """Validate the last student; evaluate the best one on test (val where test has no labels); mark the run."""
    if done == run.config.steps:  # a run that stopped early has just been validated
        validate(run, done)
    run.fabric.barrier()  # the first process has written it
    run.folder.load_student(run.student)
    with part("evaluation"):
        result = evaluate(
            run.student,
            run.store,
            run.store.evaluation_subset,
            run.fabric.device,
            run.config.batch_size,
            predictions=run.folder.path / "predictions",
            share=run.share,
        )
    if run.fabric.is_global_zero:
        run.folder.loggers.result(done, {f"best/{k}": v for k, v in result["metrics"].items()})
    run.folder.save_evaluation(result)
    run.folder.mark_finished(
        {"test": result["metrics"], "subset": result["subset"], "best_val": run.best, "best_step": run.best_step}
    )
    run.fabric.barrier()  # so that every process finds it finished
