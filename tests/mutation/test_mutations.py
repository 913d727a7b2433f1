"""Do the tests notice? Each fault below is planted in a copy of the package, and the test named with it must fail.

A comparison of two models is only as good as the engine under it, and the worst faults of such an engine (a mask that
looks one token ahead, a loss in one direction, an order that differs between the arms) raise no error: they only move
numbers. These checks prove that the suite would not stay green over them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.mutation.spoiled import run

import archlab

PACKAGE = Path(archlab.__file__).parent


@dataclass(frozen=True)
class Fault:
    """A fault and the test that must notice it.

    Attributes:
        what: is wrong, in words.
        file: of the package.
        old: text that occurs in it exactly once; new: what stands there instead.
        test: path and name of the test, below `tests`.
    """

    what: str
    file: str
    old: str
    new: str
    test: str


MASKS = [
    Fault(
        "causal masks show the next token",
        "layers/masks.py",
        "key_positions[:, None, :] <= query_positions[:, :, None]",
        "key_positions[:, None, :] <= query_positions[:, :, None] + 1",
        "layers/test_masks.py::test_causal_compares_absolute_positions",
    ),
    Fault(
        "a prefix is causal",
        "layers/masks.py",
        "causal(positions, positions) | padding(is_prefix)",
        "causal(positions, positions)",
        "layers/test_masks.py::test_prefix_is_bidirectional_inside_and_causal_after",
    ),
    Fault(
        "masks are combined by or",
        "layers/masks.py",
        "torch.logical_and",
        "torch.logical_or",
        "layers/test_masks.py::test_combine_broadcasts_and_needs_every_consent",
    ),
    Fault(
        "the backbone attends to padding",
        "vl/backbone.py",
        "mask=masks.padding(mask)",
        "mask=None",
        "vl/test_backbone.py::test_more_padding_changes_no_pooled_state",
    ),
    Fault(
        "the target encoder attends to padding",
        "vl/target_encoder.py",
        "mask=masks.padding(target_mask)",
        "mask=None",
        "vl/test_target_encoder.py::test_padding_says_nothing",
    ),
    Fault(
        "the image of the token arm does not see the query",
        "vl/arms.py",
        "masks.prefix(in_prefix.expand_as(mask), positions)",
        "masks.causal(positions, positions)",
        "vl/test_arms.py::test_the_token_arm_sees_image_and_query_exactly_as_vljepa_does",
    ),
    Fault(
        "padding in the middle shifts the positions after it",
        "vl/backbone.py",
        "(mask.long().cumsum(1) - 1).clamp(min=0)",
        "torch.arange(mask.shape[1], device=mask.device).expand_as(mask)",
        "vl/test_backbone.py::test_positions_count_real_tokens_and_padding_shifts_nothing",
    ),
    Fault(
        "means count padding",
        "layers/pooling.py",
        "mask.sum(1, keepdim=True).clamp(min=1)",
        "mask.shape[1]",
        "layers/test_pooling.py::test_masked_mean_averages_real_tokens_only",
    ),
]
LOSSES = [
    Fault(
        "InfoNCE in one direction only",
        "objectives/contrastive.py",
        "_cross_entropies(logits.T, positives.T)",
        "_cross_entropies(logits, positives)",
        "objectives/test_contrastive.py::test_equals_loops_in_both_directions_and_in_gradients",
    ),
    Fault(
        "paraphrases are negatives",
        "objectives/contrastive.py",
        "own | (equal & (labels[start:stop, None] != -1)), None",
        "own, None",
        "objectives/test_contrastive.py::test_meaning_takes_every_paraphrase_and_unknown_meanings_stand_alone",
    ),
    Fault(
        "unknown meanings are paraphrases of each other",
        "objectives/contrastive.py",
        " & (labels[start:stop, None] != -1)",
        "",
        "objectives/test_contrastive.py::test_meaning_takes_every_paraphrase_and_unknown_meanings_stand_alone",
    ),
    Fault(
        "the token arm predicts the token it reads",
        "objectives/next_token.py",
        "batch.target[:, 1:].masked_fill(~real",
        "batch.target[:, :-1].masked_fill(~real",
        "objectives/test_next_token.py::test_loss_is_the_mean_over_real_answer_tokens",
    ),
    Fault(
        "the loss counts padding",
        "objectives/next_token.py",
        ".masked_fill(~real, _IGNORED)",
        "",
        "objectives/test_next_token.py::test_padding_has_neither_loss_nor_gradient",
    ),
    Fault(
        "the decoder trains the target encoder",
        "objectives/embedding_prediction.py",
        'target = output.embeddings["target"]',
        "target = model.embed(batch)[1]",
        "objectives/test_embedding_prediction.py::"
        "test_the_decoder_teaches_nothing_but_itself_and_is_taught_by_nothing_else",
    ),
    Fault(
        "the decoder's gradient is clipped together with the backbone's",
        "train/run.py",
        'clipped_apart=("decoder",) if config.arm == "vljepa" else ()',
        "clipped_apart=()",
        "train/test_run.py::test_the_size_of_the_decoder_changes_nothing_else",
    ),
]
BACKBONES = [
    Fault(
        "features of a checkpoint are not whitened",
        "vl/pretrained_encoder.py",
        "return tokens if self.whitening is None else self.whitening(tokens)",
        "return tokens",
        "vl/test_pretrained_encoder.py::test_fitted_features_are_white_over_the_training_images",
    ),
    Fault(
        "images of another size are scaled by another filter than the checkpoint's",
        "interop/preprocessing.py",
        "Image.Resampling(self.resample)",
        "Image.Resampling.BILINEAR",
        "interop/test_preprocessing.py::test_the_filter_matters",
    ),
    Fault(
        "the last token is that of the padding",
        "interop/sentence.py",
        "(places * mask).argmax(1)",
        "places.expand_as(mask).argmax(1)",
        "interop/test_sentence.py::test_texts_of_any_length_get_the_vectors_of_the_reference[bert-lasttoken]",
    ),
    Fault(
        "an adapted model is completed at random",
        "interop/adapter.py",
        'if "pooler" not in name',
        "if not name",
        "interop/test_sentence.py::test_an_adapted_model_whose_weights_are_incomplete_is_refused",
    ),
    Fault(
        "checkpoints hold the frozen target encoder",
        "vl/target_encoder.py",
        "            self.register_state_dict_post_hook(_leave_out)\n",
        "",
        "vl/test_pretrained_target.py::test_a_checkpoint_holds_what_is_trained_and_the_digest_of_what_is_not",
    ),
    Fault(
        "a run is loaded over other files of its target encoder",
        "vl/target_encoder.py",
        "        self.register_load_state_dict_pre_hook(_check_reference)\n",
        "",
        "vl/test_pretrained_target.py::test_weights_that_were_trained_on_other_files_are_refused[0.05]",
    ),
    Fault(
        "the first layers of the language model are taken",
        "vl/language.py",
        "language_model.blocks[-depth:]",
        "language_model.blocks[:depth]",
        "vl/test_language.py::test_the_last_layers_are_taken",
    ),
    Fault(
        "embedded words of the language model are scaled",
        "vl/language.py",
        "        self.scale = 1.0\n",
        "",
        "vl/test_language.py::test_all_layers_of_it_are_the_language_model",
    ),
    Fault(
        "a plan leaves out the encoder that stays on every device",
        "compare/plan/footprint.py",
        '"X-encoder": _FLOAT * encoder',
        '"X-encoder": 0',
        "compare/plan/test_plan.py::test_devices_share_the_batch_and_if_sharded_the_state",
    ),
    Fault(
        "planned memory is that of the whole batch on every device",
        "compare/plan/footprint.py",
        "samples = -(-shape.samples // devices)",
        "samples = shape.samples",
        "compare/plan/test_plan.py::test_devices_share_the_batch_and_if_sharded_the_state",
    ),
]
VARIANTS = [
    Fault(
        "a frozen target encoder asks for a gradient",
        "vl/arms.py",
        "            arm.target_encoder.requires_grad_(False)\n",
        "            pass\n",
        "vl/test_recipes.py::test_all_that_is_trained_learns_and_all_that_is_frozen_does_not[vljepa-l1]",
    ),
    Fault(
        "a hybrid trains more than its decoder",
        "vl/arms.py",
        "            arm.requires_grad_(False)\n",
        "",
        "vl/test_recipes.py::test_all_that_is_trained_learns_and_all_that_is_frozen_does_not[hybrid]",
    ),
    Fault(
        "hidden visual tokens are seen",
        "vl/predictors.py",
        "torch.where(visible[:, :, None], visual, self.mask_token.to(visual.dtype))",
        "visual + 0 * self.mask_token",
        "vl/test_recipes.py::test_hidden_visual_tokens_are_not_seen_and_language_is",
    ),
    Fault(
        "the causal predictor is not causal",
        "vl/predictors.py",
        "masks.combine(masks.padding(mask), masks.causal(positions, positions))",
        "masks.padding(mask)",
        "vl/test_recipes.py::test_ablations_of_the_joint_predictor[causal]",
    ),
    Fault(
        "the decoder of an encoder-decoder reads ahead",
        "vl/arms.py",
        "        attend = masks.combine(masks.padding(mask), masks.causal(positions, positions))\n",
        "        attend = masks.padding(mask)\n",
        "vl/test_recipes.py::test_an_encoder_decoder_reads_the_image_as_vljepa_does_and_the_answer_causally",
    ),
    Fault(
        "VICReg counts variances as covariances",
        "objectives/regularizers.py",
        "covariance.square().sum() - covariance.diagonal().square().sum()",
        "covariance.square().sum()",
        "objectives/test_regression.py::test_the_covariance_term_is_the_sum_of_squares_off_the_diagonal",
    ),
]
GRID = [
    Fault(
        "cells on other data share a key",
        "compare/grid/cells.py",
        "[given, self.test_items, self.test_captions, self.digests, *asked]",
        "[given, self.test_items, self.test_captions, *asked]",
        "compare/grid/test_protocol.py::test_a_cell_is_its_configuration_its_data_and_what_is_measured",
    ),
    Fault(
        "tuning sees the test split",
        "compare/grid/cells.py",
        "Cell(relevant(short), 0, inputs.digests(short))",
        "Cell(relevant(short), protocol.test_items, inputs.digests(short))",
        "compare/grid/test_protocol.py::test_all_arms_try_the_same_learning_rates_in_short_runs_that_never_see_test",
    ),
    Fault(
        "arms are compared across seeds",
        "compare/grid/summary.py",
        "w * one[seed][0] for w, one",
        "w * one[min(one)][0] for w, one",
        "compare/grid/test_summary.py::test_differences_are_taken_seed_by_seed",
    ),
    Fault(
        "an interval over seeds leaves out a tail",
        "compare/grid/summary.py",
        "t.ppf((1 + level) / 2,",
        "t.ppf(level,",
        "compare/grid/test_summary.py::test_an_interval_is_students_over_seeds",
    ),
    Fault(
        "an arm wins that is no better than blind",
        "compare/grid/summary.py",
        "if own and not clearly_above(",
        "if own and clearly_above(",
        "compare/grid/test_summary.py::test_a_win_that_is_not_above_its_own_blind_control_is_taken_back",
    ),
    Fault(
        "captions are scored by the wordings of a run's own dial",
        "compare/grid/references.py",
        "replace(example, targets=in_all_forms(example.targets))",
        "example",
        "compare/grid/test_references.py::test_a_caption_scores_the_same_at_every_setting_of_the_dial",
    ),
    Fault(
        "a control shows every image its own",
        "compare/grid/conditions.py",
        "measure_arm(run.arm, under, run.config, split.name, count, control, captions)",
        "measure_arm(run.arm, under, run.config, split.name, count, None, captions)",
        "compare/grid/test_conditions.py::test_a_control_is_shown_other_images",
    ),
    Fault(
        "corrupted images keep the features of the whole ones",
        "data/corruptions.py",
        'image_digest=hashlib.sha256(f"{split.image_digest} {made_of}".encode()).hexdigest(),',
        "",
        "data/test_corruptions.py::test_questions_stay_and_digests_do_not",
    ),
    Fault(
        "a corruption draws anew for each slice",
        "data/corruptions.py",
        "enumerate(picked, start)",
        "enumerate(picked)",
        "data/test_corruptions.py::test_a_corrupted_image_is_a_function_of_its_row_whichever_are_read_with_it",
    ),
    Fault(
        "the loss of the text decoder is held against ln B",
        "compare/assemble.py",
        'watched["loss"], size, kept)',
        'run.metrics["curve"][-1]["loss"], size, kept)',
        "compare/test_collapse_section.py::test_what_is_held_against_ln_b_is_infonce_alone",
    ),
]
PRETRAINING = [
    Fault(
        "SIGReg ignores the imaginary part",
        "objectives/regularizers.py",
        " + mean(phases.sin()).square()",
        "",
        "objectives/test_regularizers.py::test_off_centre_the_imaginary_part_counts",
    ),
    Fault(
        "SIGReg does not grow with the number of samples",
        "objectives/regularizers.py",
        "return 2 * count *",
        "return 2 * 100 *",
        "objectives/test_regularizers.py::test_normal_samples_give_its_expectation_whatever_their_number",
    ),
    Fault(
        "points that one view does not show count",
        "objectives/lejepa.py",
        "local.embeddings[:, batch.visible]",
        "local.embeddings.flatten(1, 2)",
        "objectives/test_lejepa.py::test_points_that_a_view_does_not_show_do_not_count",
    ),
    Fault(
        "points move the wrong way between views",
        "data/views.py",
        "torch.linalg.solve(linear, (spots - shift[:, None]).transpose(1, 2))",
        "(linear @ (spots - shift[:, None]).transpose(1, 2))",
        "data/test_views.py::test_a_point_is_the_same_spot_in_every_view",
    ),
    Fault(
        "masked patches do not count, visible ones do",
        "objectives/masked_autoencoder.py",
        "return error[masked].mean()",
        "return error[~masked].mean()",
        "objectives/test_masked_autoencoder.py::test_loss_counts_masked_patches_only",
    ),
    Fault(
        "the context of I-JEPA keeps what the targets cover",
        "data/patch_masks.py",
        " & ~targets.any(0), targets",
        ", targets",
        "data/test_patch_masks.py::test_blocks_are_sorted_in_range_disjoint_and_of_one_size_within_a_batch",
    ),
    Fault(
        "a block is never at the right or lower border",
        "data/patch_masks.py",
        "whole - part + 1",
        "max(whole - part, 1)",
        "data/test_patch_masks.py::test_what_is_cut_is_no_special_place",
    ),
    Fault(
        "scale and aspect of a block are one draw",
        "data/patch_masks.py",
        "ratio = generator.uniform(*aspect)",
        "ratio = np.interp(area / (grid[0] * grid[1]), scale, aspect)",
        "data/test_patch_masks.py::test_target_blocks_have_the_published_scale_and_aspect",
    ),
    Fault(
        "tubes hide other places in later frames",
        "data/patch_masks.py",
        "torch.arange(tubelets) * grid[0] * grid[1]",
        "torch.arange(tubelets) * (grid[0] * grid[1] - 1)",
        "data/test_patch_masks.py::test_tubes_are_sorted_in_range_disjoint_and_the_same_in_every_frame",
    ),
    Fault(
        "the encoder sees the whole picture, targets too",
        "models/latent_prediction.py",
        "self.encoder(inputs, context).repeat_interleave(sets, 0)",
        "self.encoder(inputs)[:, : context.shape[1]].repeat_interleave(sets, 0)",
        "objectives/test_latent_prediction.py::test_predictions_see_the_context_and_not_a_pixel_of_the_targets[ijepa]",
    ),
    Fault(
        "the target encoder is trained",
        "models/latent_prediction.py",
        "copy.deepcopy(encoder).requires_grad_(False)",
        "copy.deepcopy(encoder)",
        "objectives/test_latent_prediction.py::test_targets_get_no_gradient_and_everything_else_does[vjepa]",
    ),
    Fault(
        "targets are not normalised",
        "models/latent_prediction.py",
        "F.layer_norm(states.float(), states.shape[-1:])",
        "states.float()",
        "objectives/test_latent_prediction.py::test_the_loss_equals_a_naive_loop_over_samples_ways_and_patches[ijepa]",
    ),
    Fault(
        "targets of all sets are those of the first",
        "objectives/latent_prediction.py",
        "take(states, masks.targets.flatten(1))",
        "take(states, masks.targets[:, :1].expand_as(masks.targets).flatten(1))",
        "objectives/test_latent_prediction.py::test_the_loss_equals_a_naive_loop_over_samples_ways_and_patches[ijepa]",
    ),
    Fault(
        "all target blocks are predicted together and see each other's places",
        "models/latent_prediction.py",
        "return predictor.fill(given, places, targets.flatten(0, 1), mask_token=mask_token).unflatten(0, (-1, sets))",
        "return predictor.fill(given[::sets], context, targets.flatten(1), mask_token=mask_token)"
        ".unflatten(1, (sets, -1))",
        "objectives/test_latent_prediction.py::test_each_set_of_targets_is_predicted_by_itself[ijepa]",
    ),
    Fault(
        "patches of a clip are encoded as if they were the first ones",
        "models/vjepa.py",
        "if keep is None else keep)",
        ")",
        "objectives/test_latent_prediction.py::test_encoding_chosen_patches_of_a_clip_equals_the_blocks_over_them_alone",
    ),
    Fault(
        "the momentum of the target does not rise",
        "train/ema.py",
        "self.momentum + (1 - self.momentum) * (step - 1) / self.steps",
        "self.momentum",
        "train/test_ema.py::test_the_average_equals_its_closed_form",
    ),
    Fault(
        "the target becomes the encoder at once",
        "train/ema.py",
        "target.lerp_(source, 1 - self.momentum_of(step))",
        "target.copy_(source)",
        "train/test_ema.py::test_the_average_equals_its_closed_form",
    ),
    Fault(
        "masks of a resumed run are others",
        "train/streams.py",
        "np.random.default_rng([self.config.seed, step, _MASKS])",
        "np.random.default_rng()",
        "train/test_pretrain.py::test_an_interrupted_and_resumed_pretraining_equals_an_uninterrupted_one[ijepa]",
    ),
]
MONITORS = [
    Fault(
        "what an objective draws is left to chance",
        "train/run.py",
        "torch.manual_seed(config.seed)",
        "pass",
        "train/test_run.py::test_what_an_objective_draws_depends_on_the_seed_and_not_on_the_callers_random_numbers",
    ),
    Fault(
        "the alarm rings before anything can have been learned",
        "evaluate/monitor.py",
        "step >= patience * steps",
        "step >= 0",
        "evaluate/test_monitor.py::test_an_alarm_rings_after_a_tenth_of_the_run_and_never_when_all_is_well",
    ),
    Fault(
        "a target that nothing keeps apart is blamed on the learning rate",
        "evaluate/collapse.py",
        'if kept == "unguarded" and',
        'if kept == "guarded" and',
        "evaluate/test_collapse.py::test_one_look_has_another_cause_where_the_target_is_free_guarded_or_frozen",
    ),
    Fault(
        "monitors stay among the scores",
        "evaluate/monitor.py",
        "if not name.startswith(PREFIX)}",
        "if True}",
        "evaluate/test_monitor.py::test_monitors_leave_the_curve_as_it_would_be_without_them",
    ),
    Fault(
        "an encoder is watched behind its whitening",
        "evaluate/monitor.py",
        "encoder.raw(images.to(device))",
        "encoder(images.to(device))",
        "train/test_collapse.py::test_the_alarm_rings_for_a_jepa_whose_targets_are_trained_and_for_no_other[ijepa]",
    ),
    Fault(
        "monitors count paraphrases among the negatives",
        "evaluate/monitor.py",
        "same_meaning(batch.meaning)",
        "torch.eye(size, dtype=torch.bool)",
        "evaluate/test_monitor.py::test_the_loss_is_infonce_over_batches_of_the_split_with_meanings_as_positives",
    ),
]
ORDER = [
    Fault(
        "a batch mixes tasks",
        "data/order.py",
        "for group in groups:",
        "for group in [np.concatenate(list(groups))]:",
        "data/test_order.py::test_a_batch_holds_one_task",
    ),
    Fault(
        "a longer run reads another order",
        "data/order.py",
        "default_rng([seed, epoch])",
        "default_rng([seed, epoch, steps])",
        "data/test_order.py::test_a_longer_order_begins_with_the_shorter_one",
    ),
    Fault(
        "the arms read different orders",
        "train/run.py",
        "config.optimizer.batch_size, config.seed, tasks)",
        'config.optimizer.batch_size, config.seed + (config.arm == "token"), tasks)',
        "vl/test_arms.py::test_both_arms_read_bit_identical_batches_under_the_shared_budget",
    ),
    Fault(
        "the arms start from different backbones",
        "vl/arms.py",
        "torch.manual_seed(config.seed)\n",
        "torch.manual_seed(config.seed + len(config.arm))\n",
        "vl/test_backbone.py::test_all_arms_of_one_seed_start_from_bit_identical_backbones",
    ),
    Fault(
        "the last surface form is drawn too often",
        "data/batch.py",
        "forms[int(draw) % len(forms)]",
        "forms[min(int(draw), len(forms) - 1)]",
        "data/test_batch.py::test_draws_pick_forms_modulo_their_number",
    ),
    Fault(
        "the shuffled-image control shows the own image",
        "data/batch.py",
        "        if images is None:\n",
        "        if True:\n",
        "evaluate/test_measure.py::test_shuffled_images_change_the_image_and_nothing_else",
    ),
    Fault(
        "a blind run sees the right image where neighbours share it",
        "train/run.py",
        "derangement(len(collate.split.images), step)[own]",
        "np.roll(own, 1)",
        "train/test_run.py::test_a_blind_run_never_sees_the_right_image_and_all_else_is_the_same",
    ),
    Fault(
        "cached features of another encoder are taken",
        "data/features.py",
        "{split.image_digest} {encoder.digest} {views}",
        "{split.image_digest} {views}",
        "data/test_features.py::test_every_input_that_matters_has_a_file_of_its_own_and_texts_do_not",
    ),
    Fault(
        "one group of images is in two splits",
        "data/pairs/splits.py",
        'parent[root(f"group {group}")] = here',
        "pass",
        "data/pairs/test_splits.py::test_no_group_and_no_image_is_ever_in_two_splits",
    ),
    Fault(
        "the encoder is pretrained on scenes that are trained on later",
        "train/streams.py",
        'world, split="pretrain"',
        'world, split="train"',
        "train/test_pretrain.py::test_scenes_come_from_a_stream_of_their_own_and_hold_no_held_out_combination",
    ),
]
TRAINING = [
    Fault(
        "a resumed run draws other random numbers",
        "train/together.py",
        '        torch.set_rng_state(state["cpu"])\n',
        "",
        "train/test_loop.py::test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one",
    ),
    Fault(
        "gains and biases decay",
        "train/optim.py",
        "for size in parameter.shape) >= 2",
        "for size in parameter.shape) >= 1",
        "train/test_optim.py::test_only_matrices_decay",
    ),
    Fault(
        "the first step learns nothing",
        "train/schedule.py",
        "(step + 1) / warmup",
        "step / warmup",
        "train/test_schedule.py::test_every_step_learns_and_none_exceeds_the_peak",
    ),
]
MACHINES = [
    Fault(
        "gradients do not flow through the gather",
        "objectives/global_batch.py",
        "        dist.all_reduce(summed)\n",
        "",
        "objectives/test_global_batch.py::test_loss_and_gradients_are_those_of_one_process[2-InfoNCE, meaning]",
    ),
    Fault(
        "a mean over tokens weighs all processes equally",
        "objectives/global_batch.py",
        "mean * factor.to(mean.dtype), 0.0)",
        "mean, 0.0)",
        "objectives/test_global_batch.py::test_loss_and_gradients_are_those_of_one_process[2-token]",
    ),
    Fault(
        "every process reads the first part of the batch",
        "train/processes.py",
        "    return slice(first, ",
        "    first = 0\n    return slice(first, ",
        "train/test_distributed.py::test_parts_are_disjoint_and_make_up_the_whole",
    ),
    Fault(
        "blocks of the similarity matrix are kept for the backward pass",
        "objectives/contrastive.py",
        "checkpoint(block, own, every, start, use_reentrant=False, preserve_rng_state=False)",
        "block(own, every, start)",
        "objectives/test_contrastive.py::test_in_blocks_memory_does_not_grow_with_the_square_of_the_batch",
    ),
]
DECODING = [
    Fault(
        "an answer stays in the cache of its prefix",
        "vl/decoding.py",
        "            cache.crop(start)\n\n\ndef collect",
        "            pass\n\n\ndef collect",
        "vl/test_decoding.py::test_one_reading_of_the_prefix_serves_any_number_of_answers",
    ),
    Fault(
        "packed candidates see each other",
        "vl/decoding.py",
        "(owner[:, None] == owner) & ",
        "",
        "vl/test_decoding.py::test_packed_candidates_score_as_each_does_alone",
    ),
    Fault(
        "every token of an answer stands at the same place",
        "vl/decoding.py",
        "            position = position + 1\n",
        "",
        "vl/test_decoding.py::test_cached_decoding_equals_reading_everything_again_for_every_token",
    ),
    Fault(
        "the padding of candidates is scored",
        "vl/decoding.py",
        "torch.cat(scores, 1) * real",
        "torch.cat(scores, 1)",
        "vl/test_decoding.py::test_packed_candidates_score_as_each_does_alone",
    ),
    Fault(
        "a user's text can end a sequence",
        "data/tokenizer.py",
        "tokenizer.encode_special_tokens = True",
        "tokenizer.encode_special_tokens = False",
        "data/test_tokenizer.py::test_a_text_that_spells_a_special_token_is_text",
    ),
    Fault(
        "a new token sees what lies before its window",
        "layers/causal.py",
        "if self.mask is None and held < window:",
        "if self.mask is None:",
        "layers/test_causal.py::test_within_a_window_one_new_token_needs_a_mask_where_more_is_kept_than_it_sees",
    ),
    Fault(
        "one product gives its parts to other layers",
        "layers/shared_input.py",
        "return product.split([layer.out_features for layer in self.projections()], -1)",
        "return product.split([layer.out_features for layer in self.projections()], -1)[::-1]",
        "layers/test_shared_input.py::test_one_product_gives_what_several_give",
    ),
    Fault(
        "the matrix that latent attention reads by itself is packed",
        "generate/layout.py",
        "stay = {layer.kv_proj for layer in model.modules() if isinstance(layer, LatentAttention)}",
        "stay = set()",
        "generate/test_layout.py::test_the_same_tokens_are_chosen",
    ),
    Fault(
        "cross-attention loses the layers that read the memory",
        "generate/layout.py",
        "isinstance(layer, SharedInput) and layer not in apart and",
        "isinstance(layer, SharedInput) and",
        "generate/test_layout.py::test_logits_stay",
    ),
    Fault(
        "a target is written from the padding of its source too",
        "generate/conditioned.py",
        "memory_mask=written.memory_mask",
        "memory_mask=None",
        "generate/test_conditioned.py::test_greedy_equals_transformers_with_sources_of_different_lengths",
    ),
]
METRICS = [
    Fault(
        "CIDEr counts a document once for each of its references",
        "evaluate/captioning.py",
        "documents.update(set().union(*(_grams(words(text)) for text in texts)))",
        "documents.update(gram for text in texts for gram in _grams(words(text)))",
        "evaluate/test_captioning.py::test_cider_d_equals_the_reference_implementation_on_a_long_corpus",
    ),
    Fault(
        "captions are compared with the canonical form alone",
        "evaluate/measure.py",
        "[list(example.targets) for example in examples]",
        "[[example.targets[0]] for example in examples]",
        "evaluate/test_measure.py::test_captions_are_compared_with_every_surface_form",
    ),
    Fault(
        "ties reach one place too far",
        "evaluate/retrieval.py",
        "draw < k - self.above",
        "draw <= k - self.above",
        "evaluate/test_retrieval.py::test_first_place_is_rank_one_and_recall_counts_places_inclusively",
    ),
    Fault(
        "both directions of retrieval are the same one",
        "evaluate/measure.py",
        '("text_to_image", similarity.T)',
        '("text_to_image", similarity)',
        "evaluate/test_measure.py::test_the_two_directions_of_retrieval_are_told_apart",
    ),
    Fault(
        "likelihood retrieval prefers likely captions",
        "evaluate/measure.py",
        "conditional - log_prior",
        "conditional",
        "evaluate/test_measure.py::test_likelihood_retrieval_takes_off_what_is_likely_without_the_image",
    ),
    Fault(
        "a normalised log-probability is not divided",
        "evaluate/vqa.py",
        "return log_probs / lengths",
        "return log_probs",
        "evaluate/test_vqa.py::test_length_normalisation_frees_long_candidates_from_their_length",
    ),
    Fault(
        "the open vocabulary counts towards accuracy",
        "evaluate/measure.py",
        "[kind for kind in right if kind not in OPEN_VOCABULARY]",
        "list(right)",
        "evaluate/test_measure.py::test_the_open_vocabulary_is_reported_as_classification_and_counts_towards_no_accuracy",
    ),
    Fault(
        "convergence is within a hundredth, not one percent",
        "evaluate/efficiency.py",
        '(1 - CONVERGED) * curve[-1]["mean"]',
        'curve[-1]["mean"] - CONVERGED',
        "evaluate/test_efficiency.py::test_converged_is_the_first_checkpoint_within_one_percent_of_the_final_score",
    ),
    Fault(
        "an arm at its blind control is not named",
        "compare/caveats.py",
        "and not scores.clearly_above(score, blind.score)",
        'and score["value"] < blind.score["value"]',
        "compare/report/test_caveats.py::test_a_kind_on_which_both_arms_are_blind_is_named_with_all_intervals",
    ),
    Fault(
        "a comparison measures the test split anew",
        "evaluate/measure.py",
        "if not path.exists():",
        "if True:",
        "compare/test_trial.py::test_what_was_measured_is_read_and_not_measured_again",
    ),
]
STATISTICS = [
    Fault(
        "questions about one image count as independent",
        "evaluate/statistics.py",
        "cluster = np.unique(clusters, return_inverse=True)[1]",
        "cluster = np.arange(len(clusters))",
        "evaluate/test_statistics.py::test_items_of_one_image_that_agree_widen_the_interval",
    ),
    Fault(
        "scores on the same images are drawn apart",
        "evaluate/statistics.py",
        "drawn = term.images, np.unique(clusters).tobytes()",
        "drawn = str(len(of_images)), np.unique(clusters).tobytes()",
        "evaluate/test_statistics.py::test_what_terms_of_the_same_images_share_cancels_and_of_other_images_it_does_not",
    ),
    Fault(
        "two seeds make a winner",
        "evaluate/statistics.py",
        "len(per_seed) < SEEDS_FOR_A_WINNER",
        "len(per_seed) < 2",
        "evaluate/test_statistics.py::test_winner_needs_three_seeds_and_an_interval_without_zero",
    ),
]
EXPERTS = [
    Fault(
        "the correction of a router weights the experts",
        "layers/moe.py",
        "weights = scores.gather(1, experts)",
        "weights = preference.gather(1, experts)",
        "layers/test_moe.py::test_the_correction_chooses_but_does_not_weigh",
    ),
    Fault(
        "what experts give back is left in their order",
        "layers/moe.py",
        "out[order.argsort()]",
        "out[order]",
        "layers/test_moe.py::test_sorted_dispatch_equals_asking_every_expert_about_every_token",
    ),
    Fault(
        "rebalancing sends tokens to the experts that have most",
        "layers/moe.py",
        "(load.mean() - load).sign()",
        "(load - load.mean()).sign()",
        "layers/test_moe.py::test_rebalancing_evens_out_the_load",
    ),
    Fault(
        "padding counts in the load of the experts",
        "layers/moe.py",
        "load = torch.stack([routing.load(mask) for",
        "load = torch.stack([routing.load() for",
        "layers/test_moe.py::test_the_balancing_loss_and_its_gradient_are_those_of_transformers",
    ),
    Fault(
        "latent attention caches its shared key as it was before the turn",
        "layers/mla.py",
        "latent, shared_key = self.kv_norm(latent), rotation(shared_key)",
        "latent, shared_key = self.kv_norm(latent), shared_key",
        "layers/test_mla.py::test_latent_attention_is_what_the_paper_says",
    ),
    Fault(
        "latents that are read as they are have other scores",
        "layers/mla.py",
        "latent, mask, scale=self.scale",
        "latent, mask",
        "layers/test_mla.py::test_any_chunking_equals_the_whole_sequence_and_keeps_one_narrow_vector_per_token",
    ),
    Fault(
        "parity explains what differs in one implementation by the other",
        "interop/parity/run.py",
        "set_implementation(twin.model, attention)\n        why",
        "why",
        "interop/test_parity.py::test_a_fault_of_one_implementation_alone_is_explained_there[fused]",
    ),
    Fault(
        "parity plants its bugs in one implementation only",
        "interop/parity/run.py",
        "set_implementation(faulty.model, attention)",
        "pass",
        "interop/test_parity.py::test_bugs_are_planted_in_both_implementations",
    ),
    Fault(
        "the extra prediction reads the state of the token that it is told",
        "models/multi_token.py",
        "self.state_norm(states[:, :-1])",
        "self.state_norm(states[:, 1:])",
        "models/test_multi_token.py::test_modules_one_after_the_other_are_what_the_paper_says",
    ),
]

TEXT = [
    Fault(
        "accumulated batches weigh the same however many targets they have",
        "train/loop.py",
        "shares.append(output.weight / first)",
        "shares.append(1.0)",
        "train/test_loop_features.py::test_accumulated_batches_make_the_update_of_one_large_batch_however_uneven_they_are",
    ),
    Fault(
        "the average of the weights is not saved",
        "train/loop.py",
        'parts |= {"average": average} if average is not None else {}',
        "pass",
        "train/test_loop_features.py"
        "::test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one[exponential average]",
    ),
    Fault(
        "the scale of float16 is not saved",
        "train/loop.py",
        'parts |= {"scaler": scaler} if scaler.is_enabled() else {}',
        "pass",
        "train/test_loop_features.py::test_float16_leaves_out_a_step_that_overflows_and_halves_the_scale",
    ),
    Fault(
        "recomputed blocks drop other values than the first time",
        "train/recompute.py",
        "use_reentrant=False",
        "use_reentrant=False, preserve_rng_state=False",
        "train/test_loop_features.py::test_recomputed_blocks_give_the_same_gradients_and_keep_less_in_memory",
    ),
    Fault(
        "Muon takes the embeddings too",
        "train/optim.py",
        " and any(part in name for part in hidden)",
        "",
        "train/test_loop_features.py::test_muon_makes_the_update_of_a_hidden_matrix_nearly_orthogonal_and_leaves_the_rest_to_adamw",
    ),
    Fault(
        "wsd comes down from the start",
        "train/schedule.py",
        "min(1.0, (steps - step) / decay)",
        "(steps - step) / steps",
        "train/test_schedule.py::test_wsd_is_stable_until_its_last_part_and_then_falls_in_a_line",
    ),
    Fault(
        "n-grams back off to how often a symbol was seen",
        "evaluate/ngram.py",
        "if n < order:",
        "if False:",
        "evaluate/test_ngram.py::test_a_bigram_leaves_its_discount_to_the_symbols_that_follow_many_others",
    ),
    Fault(
        "characters of validation are trained on",
        "data/text/sets.py",
        "Characters(text[:cut], text[cut:])",
        "Characters(text, text[cut:])",
        "train/text/test_characters.py::test_every_character_of_validation_is_predicted_once_and_none_of_it_is_trained_on",
    ),
    Fault(
        "a name that occurs twice is trained on and held out",
        "data/text/sets.py",
        "(names[i] in chosen) == out",
        "(names[i] in chosen and names.index(names[i]) == i) == out",
        "data/text/test_sets.py::test_names_are_held_out_whole_by_lot_and_equal_ones_together",
    ),
    Fault(
        "the LSTM attends to padding",
        "models/lstm.py",
        "scores.masked_fill(~memory_mask[:, None], torch.finfo(scores.dtype).min)",
        "scores",
        "models/test_lstm.py::test_source_padding_changes_nothing",
    ),
    Fault(
        "the order of batches is that of the first epoch for ever",
        "data/text/buckets.py",
        "np.random.default_rng([self.seed, epoch])",
        "np.random.default_rng(self.seed)",
        "data/text/test_buckets.py::test_epochs_and_seeds_differ",
    ),
    Fault(
        "the loss of a translation counts padding",
        "objectives/sequence.py",
        ".masked_fill(~batch.target_mask[:, 1:], _IGNORED)",
        "",
        "objectives/test_sequence.py::test_translation_loss_is_the_definition_over_real_tokens",
    ),
    Fault(
        "the tail of a long review is lost",
        "train/text/sentiment.py",
        "*ids[len(ids) - tail :]]",
        "*ids[most - tail : most]]",
        "train/text/test_tasks.py::test_head_and_tail_keep_both_ends_and_the_right_number",
    ),
    Fault(
        "tokenised BLEU does not split words at apostrophes",
        "evaluate/translation.py",
        "MosesTokenizer(language)",
        'MosesTokenizer("de")',
        "evaluate/test_translation.py::test_tokenised_bleu_counts_the_words_of_moses_whatever_their_case",
    ),
    Fault(
        "scores on different data stand in one table",
        "train/text/results.py",
        ", {Path(name).name}",
        "",
        "train/text/test_results.py::test_scores_on_different_data_are_in_different_tables",
    ),
    Fault(
        "a tokenizer with more tokens than the model has vectors is accepted",
        "interop/text.py",
        "size > vocabulary",
        "False",
        "generate/test_command.py::test_a_tokenizer_or_tokens_that_the_model_does_not_know_are_refused_in_one_line",
    ),
    Fault(
        "the layers of torch see later target tokens",
        "interop/torch_translator.py",
        "tgt_mask=mask,\n            tgt_is_causal=True,",
        "tgt_is_causal=False,",
        "bench/test_train.py::test_layers_of_torch_compute_the_same_loss_and_the_same_gradients",
    ),
]

SELECTIVE = [
    Fault(
        "drift makes captions of streams wrong",
        "data/streams/scenes.py",
        "0.9 * DOMINANCE_MARGIN / 4",
        "3 * DOMINANCE_MARGIN",
        "data/streams/test_streams.py::test_the_caption_of_a_segment_is_true_of_each_of_its_frames",
    ),
    Fault(
        "an event may change nothing that is said",
        "data/streams/scenes.py",
        "if _fits(after) and _meaning(after) != before:",
        "if _fits(after):",
        "data/streams/test_streams.py::test_every_event_changes_what_is_to_be_said",
    ),
    Fault(
        "queries are reworded as often as targets",
        "data/scenes/dataset.py",
        "return Spoken(wordings(self.query_paraphrases), wordings(self.paraphrases))",
        "return Spoken(wordings(self.paraphrases), wordings(self.paraphrases))",
        "data/scenes/test_dataset.py::test_training_hears_the_same_questions_in_the_same_order_at_every_k[fixed]",
    ),
    Fault(
        "what pools is compared with single frames",
        "compare/selective/policies.py",
        'return Peers("uniform-pooled", "oracle") if policy in POOLED else Peers("uniform", "oracle-exact")',
        'return Peers("uniform", "oracle")',
        "compare/selective/test_summary.py::"
        "test_what_pools_stands_between_those_that_pool_and_single_frames_between_single_frames",
    ),
    Fault(
        "captions in unseen syntax are those of the split",
        "data/scenes/syntax.py",
        "one = replace(one, targets=syntax_forms(one.targets.meaning, captions % len(SYNTAXES)))",
        "pass",
        "data/scenes/test_syntax.py::test_the_split_differs_in_its_captions_alone",
    ),
    Fault(
        "the trigger weighs a change of one frame like one that lasts",
        "compare/selective/trigger.py",
        "length * before / self._count * float(gap @ gap)",
        "float(gap @ gap)",
        "compare/selective/test_trigger.py::"
        "test_a_segment_begins_where_leaving_its_frames_would_cost_more_squared_error_than_the_threshold",
    ),
    Fault(
        "clusters of a stream need not be connected in time",
        "compare/selective/policies.py",
        "connectivity=chain, ",
        "",
        "compare/selective/test_policies.py::test_ward_merges_neighbours_in_time_only",
    ),
    Fault(
        "clustering raw features looks at embeddings",
        "compare/selective/policies.py",
        '_ward("features", pooled=True)',
        '_ward("embeddings", pooled=True)',
        "compare/selective/test_policies.py::test_what_watches_raw_features_sees_only_them",
    ),
    Fault(
        "annotations stand at the start of their segments",
        "compare/selective/scoring.py",
        "times - segment.middle",
        "times - segment.start",
        "compare/selective/test_scoring.py::test_an_annotation_is_paired_with_the_decode_nearest_to_its_middle",
    ),
    Fault(
        "a policy's own decodes weigh the words it is judged by",
        "compare/selective/scoring.py",
        ", corpus=self._corpus",
        "",
        "compare/selective/test_scoring.py::"
        "test_cider_weighs_words_by_the_annotations_however_often_a_policy_says_them",
    ),
    Fault(
        "thresholds are tuned on the test streams",
        "compare/selective/cell.py",
        'streams("validation", protocol.validation_streams)',
        'streams("test", protocol.validation_streams)',
        "compare/selective/test_selective.py::test_thresholds_come_from_validation_streams_alone",
    ),
    Fault(
        "a tuned policy is read at whatever number of decodes it has",
        "compare/selective/summary.py",
        "np.interp(1.0, rates[order], scores[order])",
        "scores[np.abs(rates - 1.0).argmin()]",
        "compare/selective/test_summary.py::test_a_tuned_policy_is_read_at_exactly_one_decode_per_event",
    ),
]

COMPRESSION = [
    Fault(
        "the least important heads stay",
        "compress/pruning.py",
        "scores.topk(count)",
        "scores.topk(count, largest=False)",
        "compress/test_pruning.py::test_a_pruned_arm_says_what_the_arm_with_the_same_parts_masked_says",
    ),
    Fault(
        "the output projection keeps the columns of other heads",
        "layers/pruning.py",
        "_columns(attention.out_proj, _members(heads,",
        "_columns(attention.out_proj, _members(torch.arange(len(heads)),",
        "layers/test_pruning.py::test_an_attention_without_some_heads_is_one_in_which_they_are_silent",
    ),
    Fault(
        "samples cancel each other out in the importance of a head",
        "compress/pruning.py",
        "gates.abs().sum(0)",
        "gates.sum(0).abs()",
        "compress/test_pruning.py::test_importance_is_the_gradient_of_a_gate_sample_by_sample",
    ),
    Fault(
        "the student's distribution takes the teacher's place in the divergence",
        "objectives/distillation.py",
        "F.kl_div(student, teacher,",
        "F.kl_div(teacher, student,",
        "objectives/test_distillation.py::test_the_divergence_is_that_of_the_student_from_the_teacher",
    ),
    Fault(
        "a student begins with the teacher's first blocks",
        "compress/variants.py",
        "(int(block) + 1) * depths[1] // depths[0] - 1",
        "int(block)",
        "compress/test_variants.py::test_a_student_begins_with_evenly_spaced_blocks_of_its_teacher",
    ),
    Fault(
        "the variant is chosen by the test split",
        "compress/results.py",
        'row["change"]["validation"][QUESTIONS]["difference"] <= MOST_LOST',
        'row["change"]["test"][QUESTIONS]["difference"] <= MOST_LOST',
        "compress/test_command.py::test_what_is_chosen_is_the_fastest_that_keeps_validation_whatever_test_says",
    ),
]

HTTP = [
    Fault(
        "an API key is found by its id alone",
        "serve/auth.py",
        "key if matches and prefix == _PREFIX",
        "key if prefix == _PREFIX",
        "serve/test_auth.py::test_a_key_is_found_by_what_was_shown_and_by_nothing_else",
    ),
    Fault(
        "scopes are not asked for",
        "serve/calls.py",
        "if scope not in key.scopes:",
        "if not key.scopes:",
        "serve/test_auth.py::test_a_scope_opens_what_it_says_and_no_more",
    ),
    Fault(
        "a body that does not say its size is read without end",
        "serve/bodies.py",
        "size += len(chunk)",
        "size = len(chunk)",
        "serve/test_bodies.py::test_a_body_that_does_not_say_its_size_is_cut_where_it_is_too_large",
    ),
    Fault(
        "room that a request took is not given back",
        "serve/limits.py",
        "stock.take(caller, -amount)",
        "pass",
        "serve/test_limits.py::test_room_is_bounded_in_requests_and_in_bytes_and_given_back",
    ),
    Fault(
        "one key may take all the room there is",
        "serve/limits.py",
        "if own and amount and ",
        "if False and ",
        "serve/test_limits.py::test_a_caller_who_takes_all_it_can_get_leaves_room_for_others",
    ),
    Fault(
        "a head may be as large as it likes",
        "serve/protocol.py",
        "if self._head > settings.max_head:",
        "if False:",
        "serve/test_protocol.py::test_a_head_that_is_too_large_is_refused",
    ),
    Fault(
        "what a refusal quotes of a request is sent to the backend of the spans",
        "serve/calls.py",
        "record_exception=False",
        "record_exception=True",
        "serve/test_tracing.py::test_what_a_refusal_quotes_is_in_no_span",
    ),
    Fault(
        "pages of other sites reach a service without keys",
        "serve/middleware/loopback.py",
        'for name in ("host", "origin"):',
        'for name in ("host",):',
        "serve/test_loopback.py::test_pages_of_other_sites_do_not_reach_it_through_a_browser",
    ),
    Fault(
        "what a client asked that has left is computed all the same",
        "serve/middleware/patience.py",
        "            self._handler.cancel()",
        "            pass",
        "serve/test_stress.py::test_a_client_that_leaves_frees_its_place_and_nothing_is_computed_for_it",
    ),
]

STREAMS = [
    Fault(
        "frames that their sender had no credit for are kept",
        "serve/streams/intake.py",
        'self._overload == "close" and self.outstanding >= self._credit',
        'self._overload == "close" and len(self._waiting) >= self._credit',
        "serve/test_intake.py::test_within_the_credit_nothing_is_dropped_and_beyond_it_a_strict_stream_is_refused",
    ),
    Fault(
        "of a flood of frames everything waits",
        "serve/streams/intake.py",
        "while self.outstanding > self._credit and len(self._waiting) > 1:",
        "while self.outstanding > self._credit and len(self._waiting) > self._credit:",
        "serve/test_intake.py::test_what_waits_is_bounded_and_the_newest_is_kept",
    ),
    Fault(
        "a stream says again what it said last",
        "serve/streams/session.py",
        "self._open is not None and spoken.text == self._open.text",
        "self._open is None and spoken.text == ''",
        "serve/test_stream.py::test_words_that_were_said_last_are_not_said_again",
    ),
    Fault(
        "a revoked key keeps its stream",
        "serve/auth.py",
        "return self._keys.get(key.id) == key",
        "return True",
        "serve/test_stream.py::test_a_revoked_key_ends_its_stream",
    ),
]

SERVING = [
    Fault(
        "a caller with many items fills the batches",
        "serve/batcher.py",
        "                turns.append(caller)",
        "                turns.appendleft(caller)",
        "serve/test_batcher.py::test_callers_take_turns",
    ),
    Fault(
        "the queue has no bound",
        "serve/batcher.py",
        "if self.stats.queued + total > self.limits.queue:",
        "if False:",
        "serve/test_batcher.py::test_a_full_queue_refuses_the_whole_call_counts_its_items_and_says_when_to_come_back",
    ),
    Fault(
        "an item that is as much work as many fits into any batch",
        "serve/batcher.py",
        "room -= entry.weight",
        "room -= 1",
        "serve/test_batcher.py::test_an_item_that_is_more_work_counts_as_several",
    ),
    Fault(
        "what nobody waits for any more is computed",
        "serve/batcher.py",
        'self._withdraw(call, "cancelled")',
        "pass",
        "serve/test_batcher.py::test_items_of_a_caller_that_left_are_never_computed_and_free_their_place_at_once",
    ),
    Fault(
        "what has expired is computed",
        "serve/batcher.py",
        'self._withdraw(call, "expired")',
        "pass",
        "serve/test_batcher.py"
        "::test_an_item_whose_time_is_up_is_dropped_before_it_is_computed_and_its_caller_told_at_once",
    ),
    Fault(
        "one item that fails takes its whole batch with it",
        "serve/batcher.py",
        "if all(entry.call is entries[0].call for entry in entries):",
        "if entries:",
        "serve/test_batcher.py::test_one_callers_poison_fails_nobody_else",
    ),
    Fault(
        "who leaves amid a call to another process leaves its answer to the next",
        "serve/engine_process.py",
        "await asyncio.shield(self._exchange(name, arguments))",
        "await self._exchange(name, arguments)",
        "serve/test_engine_process.py::test_who_leaves_amid_a_call_leaves_no_answer_to_the_next",
    ),
    Fault(
        "a model is closed under those who use it",
        "serve/model.py",
        "        await self._unused.wait()\n",
        "",
        "serve/test_models.py::test_unloading_waits_for_requests_that_have_begun_and_takes_no_new_ones",
    ),
    Fault(
        "a failed engine stays ready",
        "serve/model.py",
        "self._health.failed)",
        "lambda: None)",
        "serve/test_model.py"
        "::test_a_failure_reaches_its_caller_without_its_reason_and_turns_readiness_red_until_a_probe_works",
    ),
    Fault(
        "int8 is served where it is worse",
        "export/manifest.py",
        "score.lost <= MOST_LOST",
        "True",
        "export/test_accuracy.py"
        "::test_int8_is_served_unasked_only_where_enough_items_tell_that_no_metric_loses_half_a_point",
    ),
    Fault(
        "an export is not compared with PyTorch",
        "export/parity.py",
        "if not difference <= allowed:",
        "if False:",
        "export/test_onnx.py::test_an_export_that_is_not_equal_is_not_left_behind",
    ),
]

CONFORMANCE = "index/test_conformance.py::"
SEARCH = [
    Fault(
        "a signal to all processes of a service ends that of its index first",
        "index/process.py",
        "signal.signal(number, lambda *_: None)",
        "signal.signal(number, signal.SIG_DFL)",
        "index/test_process.py::test_what_is_sent_to_all_processes_of_a_service_does_not_end_it",
    ),
    Fault(
        "a search in another process takes a thread of this one",
        "serve/collections.py",
        "if isinstance(collection, IsolatedCollection):",
        "if False:",
        "serve/test_index_process.py::test_a_search_asks_the_other_process_and_no_thread",
    ),
    Fault(
        "a truth value equals the number 1",
        "index/filters.py",
        "value == wanted and isinstance(value, bool) == isinstance(wanted, bool)",
        "value == wanted",
        CONFORMANCE + "test_conditions_mean_the_same_everywhere",
    ),
    Fault(
        "the embedded engine takes truth values for numbers",
        "index/embedded.py",
        "np.bool_(value) if isinstance(value, bool) else value",
        "value",
        CONFORMANCE + "test_conditions_mean_the_same_everywhere",
    ),
    Fault(
        "fractions are given to the engines with more digits than they keep",
        "index/metadata.py",
        'float(f"{round(value, 22):.15g}")',
        "value",
        CONFORMANCE + "test_every_backend_answers_as_the_oracle_does",
    ),
    Fault(
        "Euclidean distances count as similarities",
        "index/qdrant.py",
        '-found.score if spec.distance == "euclidean" else found.score',
        "found.score",
        CONFORMANCE + "test_scores_are_higher_for_what_is_nearer",
    ),
    Fault(
        "embedded collections have no write-ahead log",
        "index/embedded.py",
        "max_search_threads=1,",
        "max_search_threads=1, wal_enabled=False,",
        "index/test_embedded.py::test_kill_9_amid_upserts_loses_nothing_that_was_acknowledged",
    ),
    Fault(
        "changes made while a graph is built are lost",
        "index/embedded.py",
        "self._since.append(operation)",
        "pass",
        "index/test_embedded.py::test_what_changes_while_the_graph_is_built_is_kept",
    ),
    Fault(
        "two processes share an embedded index",
        "index/embedded.py",
        "self._file_lock.acquire(timeout=0)",
        "pass",
        "index/test_embedded.py::test_an_index_that_is_open_is_refused_to_another_process_with_the_remedy",
    ),
    Fault(
        "a collection takes vectors of any model",
        "index/protocol.py",
        "spec.model and spec.model != digest",
        "False",
        "index/test_images.py::test_a_collection_takes_no_other_folder_question_or_model",
    ),
    Fault(
        "a changed image keeps its old vector",
        "index/images.py",
        "before is not None and before.get(DIGEST) == digest",
        "before is not None",
        "index/test_images.py::test_what_is_unchanged_is_not_embedded_again_and_what_is_gone_disappears",
    ),
    Fault(
        "images that are gone stay in the index",
        "index/images.py",
        "name not in self.kept",
        "False",
        "index/test_images.py::test_what_is_unchanged_is_not_embedded_again_and_what_is_gone_disappears",
    ),
    Fault(
        "a migration is believed without a look at the vectors",
        "index/migrate.py",
        "_different(old.fetch(sample), new.fetch(sample)).ids",
        "[]",
        "index/test_migrate.py::test_a_target_that_keeps_something_else_is_noticed",
    ),
    Fault(
        "whoever may search may change collections",
        "serve/routes/collections.py",
        'accepts(UpsertRequest, scope="write", forms=UpsertForm)',
        "accepts(UpsertRequest, forms=UpsertForm)",
        "serve/test_collections.py::test_changes_need_the_scope_write_and_searches_do_not",
    ),
    Fault(
        "answers tell where on this machine an image lies",
        "serve/routes/collections.py",
        'if not name.startswith("_")}',
        "}",
        "serve/test_collections.py::test_notes_of_the_command_line_are_not_told",
    ),
]

LOAD = [
    Fault(
        "requests of the warm-up count",
        "bench/serve/record.py",
        "for inside in [(np.frombuffer(ends) >= start) & (np.frombuffer(ends) <= end)]",
        "for inside in [np.frombuffer(ends) <= end]",
        "bench/serve/test_record.py::test_only_requests_that_end_within_the_window_count",
    ),
    Fault(
        "a step with errors counts as capacity",
        "bench/serve/capacity.py",
        'not step["errors"] and ',
        "",
        "bench/serve/test_capacity.py::test_a_step_with_an_error_does_not_count_however_fast_it_is",
    ),
    Fault(
        "the servers are measured in the same order in every round",
        "bench/serve/contest.py",
        "first = turn % len(names)",
        "first = 0",
        "bench/serve/test_contest.py::test_servers_take_turns_alone_and_every_round_begins_with_another_one",
    ),
    Fault(
        "ratios are upside down",
        "bench/serve/contest.py",
        "for one in (ours, steps)",
        "for one in (steps, ours)",
        "bench/serve/test_contest.py::test_ratios_are_taken_round_by_round",
    ),
    Fault(
        "a peer may do other work",
        "bench/serve/contest.py",
        "if share < SAME",
        "if False",
        "bench/serve/test_contest.py::test_a_peer_that_finds_something_else_is_refused",
    ),
    Fault(
        "more requests at a worse latency are a victory",
        "bench/serve/goals.py",
        'and (least == _EQUAL or slow["high"] <= _EQUAL)',
        "",
        "bench/serve/test_report.py::test_twice_the_throughput_at_a_worse_p95_is_no_victory",
    ),
    Fault(
        "a peer is beaten where an interval says that perhaps it is not",
        "bench/serve/goals.py",
        'rates["low"] >= least',
        'rates["high"] >= least',
        "bench/serve/test_report.py::test_an_interval_that_reaches_below_the_bound_supports_no_claim",
    ),
    Fault(
        "machines are planned to be busy all the time",
        "cost/arithmetic.py",
        "return self.throughput * self.utilization",
        "return self.throughput",
        "cost/test_cost.py::test_a_thousand_requests_cost_what_their_seconds_cost",
    ),
    Fault(
        "a GPU that costs as much per request pays",
        "cost/arithmetic.py",
        "gpu.per_1000 >= cpu.per_1000",
        "gpu.per_1000 > cpu.per_1000 * 1.0001",
        "cost/test_cost.py::test_a_gpu_that_costs_more_per_request_never_pays",
    ),
]

CLIPS = [
    Fault(
        "frames are taken from the beginnings of the parts of a clip",
        "data/clips.py",
        "(part + 0.5) * length",
        "part * length",
        "data/test_clips.py::test_frames_are_those_on_display_at_the_middles_of_equal_parts[.mp4]",
    ),
    Fault(
        "clips of phones lie on their side",
        "data/clips.py",
        "if frame.rotation:",
        "if False:",
        "data/test_clips.py::test_clips_of_phones_stand_upright",
    ),
    Fault(
        "the number of frames is no part of the digest of clips",
        "data/pairs/assembly.py",
        "how = [SAMPLING, str(self.frames)]",
        "how = [SAMPLING]",
        "data/pairs/test_folders_of_clips.py::test_how_many_frames_are_taken_is_part_of_the_digest",
    ),
    Fault(
        "visual tokens of a clip do not say when",
        "vl/clip_encoder.py",
        "torch.cat([pooled, times], -1)",
        "torch.cat([pooled, 0 * times], -1)",
        "vl/test_clip_encoder.py::test_the_order_of_frames_matters",
    ),
    Fault(
        "a model of video sees single frames",
        "vl/encoder.py",
        "if isinstance(self.vit, WhitenedViT):\n            return self.encode",
        "if True:\n            return self.encode",
        "vl/test_clip_encoder.py::test_a_model_of_video_sees_the_clip",
    ),
]

ESSENTIAL = [*MASKS, *LOSSES, *ORDER, *METRICS, *STATISTICS]
"""Faults that would spoil a comparison without a word."""
FURTHER = [
    *BACKBONES,
    *VARIANTS,
    *GRID,
    *PRETRAINING,
    *MONITORS,
    *TRAINING,
    *MACHINES,
    *TEXT,
    *DECODING,
    *EXPERTS,
    *SELECTIVE,
    *COMPRESSION,
    *HTTP,
    *STREAMS,
    *SERVING,
    *SEARCH,
    *LOAD,
    *CLIPS,
]


@contextmanager
def copied_package() -> Iterator[Path]:
    """A copy of the package, to be spoiled; compiled files come along and save the time of compiling again."""
    with tempfile.TemporaryDirectory() as folder:
        yield shutil.copytree(PACKAGE, Path(folder).resolve() / "archlab")


def test_every_fault_finds_its_place() -> None:
    """Those of the slow ones too: a text that was changed meanwhile would be noticed late."""
    package = Path(archlab.__file__).parent
    places = {fault.what: (package / fault.file).read_text("utf-8").count(fault.old) for fault in ESSENTIAL + FURTHER}
    assert {what: count for what, count in places.items() if count != 1} == {}


@pytest.mark.parametrize(
    "faults", [pytest.param(ESSENTIAL, id="essential"), pytest.param(FURTHER, id="further", marks=pytest.mark.slow)]
)
def test_the_named_tests_pass_on_an_unspoiled_copy(faults: list[Fault]) -> None:
    with copied_package() as package:
        status, output = run(package, *sorted({fault.test for fault in faults}))
    assert status == 0, output


@pytest.mark.parametrize(
    "fault",
    [
        *(pytest.param(fault, id=fault.what) for fault in ESSENTIAL),
        *(pytest.param(fault, id=fault.what, marks=pytest.mark.slow) for fault in FURTHER),
    ],
)
def test_a_planted_fault_is_noticed(fault: Fault) -> None:
    with copied_package() as package:
        source = (package / fault.file).read_text(encoding="utf-8")
        (package / fault.file).write_text(source.replace(fault.old, fault.new), encoding="utf-8")
        status, output = run(package, fault.test)
    assert status == 1, output  # 2 and more: pytest itself failed, or found no such test
    assert f"FAILED tests/{fault.test}" in output, output
