"""Mutants of the control: steps, exposure, state of the entries, error feedback."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

FEEDBACK = "dqar/control/error_feedback.py"
CONTROL = "dqar/control/"
TEST_CONTROL = "tests/dqar/control/"
TEST_EXPOSURE = (
    f"{TEST_CONTROL}test_exposure.py::test_replay_of_an_exposure_run_is_the_run",
    f"{TEST_CONTROL}test_exposure.py::test_local_error_is_known_wherever_something_was_cached",
    f"{TEST_CONTROL}test_exposure.py::test_drift_is_the_change_since_the_last_computation",
)
TEST_FEEDBACK = tuple(
    f"{TEST_CONTROL}test_error_feedback.py::test_{name}"
    for name in (
        "a_stretch_adds_up_to_its_trapezoid",
        "rows_are_fed_back_each_on_its_own",
        "branches_of_a_sample_go_together",
        "outputs_that_reuse_got_right_need_nothing",
        "what_is_kept_is_not_the_callers",
        "each_precision_is_shown_in_its_own",
        "a_long_sum_of_half_precision_outputs_is_exact",
    )
)
TEST_STATE = (f"{TEST_CONTROL}test_entry_state_and_step_log.py",)

CONTROL_MUTANTS = (
    Mutant(
        fault="the controller records a step that was broken off",
        file=f"{CONTROL}step_control.py",
        old='sink receives it."""\n        self._open = None\n',
        new='sink receives it."""\n        self.finish_step()\n',
        tests=(
            "tests/dqar/integration/test_step_counter.py",
            f"{TEST_CONTROL}test_discarded_step.py",
        ),
    ),
    Mutant(
        fault="a run records a step that was broken off",
        file="dqar/integration/wrapper.py",
        old="                controller.drop_step()\n",
        new="                controller.finish_step()\n",
        tests=("tests/dqar/integration/test_step_counter.py",),
    ),
    Mutant(
        fault="exposure refreshes the entries of rows that reuse",
        file=f"{CONTROL}site_execution.py",
        old="            self._enter(key, gate, fresh.take(rows.rows_at), rows)\n",
        new="            self._enter(key, gate, fresh, None)\n",
        tests=TEST_EXPOSURE,
    ),
    Mutant(
        fault="exposure notes no local error",
        file=f"{CONTROL}site_execution.py",
        old="        self.step_log.note_local_error(gate, error)\n",
        new="",
        tests=TEST_EXPOSURE,
    ),
    Mutant(
        fault="drift is measured against the entry after it was written",
        file=f"{CONTROL}site_execution.py",
        old="        if fresh.entropy is not None:\n",
        new=(
            "        self.history.store(\n"
            "            key, fresh.parts, self._coefficients(gate),\n"
            "            None if rows is None else rows.rows_at, donors,\n"
            "        )\n"
            "        if fresh.entropy is not None:\n"
        ),
        tests=TEST_EXPOSURE,
    ),
    Mutant(
        fault="the differences of a shared row are taken from its own history",
        file=f"{CONTROL}site_execution.py",
        old="self._coefficients(gate), rows_at, donors)",
        new="self._coefficients(gate), rows_at, None)",
        tests=(f"{TEST_CONTROL}test_cross_branch_threshold.py",),
    ),
    Mutant(
        fault="a value is lent although one sample does not share",
        file=f"{CONTROL}site_execution.py",
        old="everyone_shares = set(self.codes[gate]) == {int(DecisionReason.SHARED)}",
        new="everyone_shares = int(DecisionReason.SHARED) in self.codes[gate]",
        tests=(
            f"{TEST_CONTROL}test_branch_sharing.py",
            f"{TEST_CONTROL}test_cross_branch_threshold.py",
            f"{TEST_CONTROL}test_manual.py",
        ),
    ),
    Mutant(
        fault="the first computation has a span",
        file=f"{CONTROL}entry_state.py",
        old="is_second = computed & (self.committed_at != NEVER)",
        new="is_second = computed",
        tests=TEST_STATE,
    ),
    Mutant(
        fault="a computation does not reset the count of reuses",
        file=f"{CONTROL}entry_state.py",
        old="torch.where(computed, 0, self.reuses + reused)",
        new="self.reuses + reused",
        tests=TEST_STATE,
    ),
    Mutant(
        fault="the distance between branches is entered where rows computed",
        file=f"{CONTROL}entry_state.py",
        old="where = compared if name == BRANCH_GAP and compared is not None else computed",
        new="where = computed",
        tests=(*TEST_STATE, f"{TEST_CONTROL}test_cross_branch_threshold.py"),
    ),
    Mutant(
        fault="the age of the distance between branches is never reset",
        file=f"{CONTROL}entry_state.py",
        old="torch.where(compared, step.index, self.branch_at)",
        new="self.branch_at",
        tests=(*TEST_STATE, f"{TEST_CONTROL}test_cross_branch_threshold.py"),
    ),
    Mutant(
        fault="reused blocks do not count as reused feed-forwards",
        file=f"{CONTROL}entry_state.py",
        old='share_ff=self._share("ff")',
        new='share_ff=self.shares["ff"]',
        tests=TEST_STATE,
    ),
    Mutant(
        fault="a stretch in which gates computed is corrected",
        file=FEEDBACK,
        old="(self._stale > 0) & ~self._is_broken",
        new="(self._stale > 0)",
        tests=TEST_FEEDBACK,
    ),
    Mutant(
        fault="a stretch stays excluded after a full computation",
        file=FEEDBACK,
        old="is_stale & (self._is_broken | (share < 1.0))",
        new="(self._is_broken | (share < 1.0))",
        tests=TEST_FEEDBACK,
    ),
    Mutant(
        fault="the trapezoid counts one step too many",
        file=FEEDBACK,
        old="gains * self._stale / 2",
        new="gains * (self._stale + 1) / 2",
        tests=TEST_FEEDBACK,
    ),
    Mutant(
        fault="the last full output is the caller's tensor",
        file=FEEDBACK,
        old="self._last, self._stale = known.clone(), ",
        new="self._last, self._stale = known, ",
        tests=TEST_FEEDBACK,
    ),
    Mutant(
        fault="a sum of outputs is kept in float16",
        file=FEEDBACK,
        old="torch.zeros_like(output, dtype=_exact(output))",
        new="torch.zeros_like(output)",
        tests=TEST_FEEDBACK,
    ),
)
