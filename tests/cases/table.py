"""What the package once got wrong, each with the tests that hold it right now: ``file::test``, below ``tests/``."""

#: Predictions that were wrong, and said nothing of it.
SILENTLY_WRONG = {
    "molecules and wires in a box": (
        "optimizers/test_slab.py::test_wires_and_molecules_are_refused",
        "geometry/test_vacuum.py::test_molecules_have_vacuum_around_them_in_boxes_of_any_size",
        "benchmarks/test_doors.py::test_the_doors_say_what_the_table_says",
    ),
    "slabs, periodic in three directions": (
        "geometry/test_vacuum.py::test_slabs_are_thicker_than_layers",
        "geometry/test_vacuum.py::test_the_vacuum_is_kept_and_the_plane_relaxes",
        "prediction/test_inference.py::test_layers_keep_their_vacuum",
    ),
    "a vacancy that nothing relaxes around": (
        "prediction/test_judgement.py::test_crystals_that_are_left_as_they_are",
        "cases/test_predictions.py::test_a_vacancy_is_never_said_to_be_relaxed_without_a_reason",
    ),
    "atoms that collide in the prediction": (
        "doors/test_structures.py::test_any_structures_through_the_doors_of_python",
        "cases/test_predictions.py::test_an_interstitial_too_near_is_no_crystal_with_colliding_atoms",
    ),
    "LiFePO4: one judgement at every door": (
        "test_one_judgement.py::test_every_door_says_the_same",
        "test_one_judgement.py::test_triphylite_is_doubted_alike",
    ),
    "no volume error where the volume is kept": (
        "prediction/test_judgement.py::test_a_volume_that_is_kept_is_not_off",
        "prediction/test_display.py::test_a_cell_that_is_kept_is_not_off",
    ),
    "finished crystals with the errors of a prediction": (
        "screening/test_table_relaxer.py::test_what_belongs_to_a_prediction_leaves_with_it",
        "prediction/test_result.py::test_what_belongs_to_a_prediction_leaves_with_it",
    ),
    "recycles and solver of models without use for them": (
        "prediction/test_inference.py::test_recycles_of_a_network_that_looks_once_are_refused",
        "prediction/test_inference.py::test_a_solver_where_there_is_nothing_to_solve_is_refused",
    ),
    "the nearest image of a two-atom fcc cell": (
        "evaluation/test_metrics.py::test_a_two_atom_fcc_cell_under_large_noise",
    ),
    "one inference, so that layers keep their height": (
        "evaluation/test_pair_predictions.py::test_bulk_predictions_are_the_predictors",
        "evaluation/test_pair_predictions.py::test_layers_keep_their_vacuum",
    ),
    "the key of kept predictions": ("evaluation/test_cached_predictions.py::test_another_predictor_does_not_read_it",),
    "constraints": (
        "cases/test_predictions.py::test_fixed_atoms_are_kept_by_whatever_predicts",
        "io/test_documents.py::test_sites_that_are_fixed_stay_so",
        "optimizers/test_constraints.py::test_fixed_atoms_stay_to_the_bit",
    ),
    "a CIF in another setting than its operations": (
        "io/test_space_groups.py::test_another_setting_than_the_standard_one",
        "io/test_space_groups.py::test_operations_decide_where_they_are_listed",
    ),
    "what is no element": (
        "test_crystal.py::test_numbers_of_no_element",
        "test_crystal.py::test_what_is_no_element_is_refused",
        "io/test_documents.py::test_what_is_no_ordered_crystal_of_elements",
        "cases/test_predictions.py::test_what_is_no_element_costs_its_row_whatever_the_format",
    ),
}

#: One bad crystal that ended a run, or took others with it.
ONE_FOR_ALL = {
    "an occupancy of another kind": (
        "test_crystal.py::test_an_occupancy_of_another_kind",
        "test_crystal.py::test_what_is_no_structure_gives_an_error_and_raises_none",
    ),
    "coordinates beyond reason": (
        "test_crystal.py::test_each_bad_input_has_its_own_error",
        "doors/test_structures.py::test_any_structures_through_the_doors_of_python",
    ),
    "calculators that break": (
        "screening/test_table_relaxer.py::test_a_finish_that_fails_leaves_the_prediction",
        "optimizers/test_frames_finish.py::test_forces_that_are_no_numbers_cost_their_crystal_alone",
        "optimizers/test_frames_finish.py::test_a_calculator_that_keeps_no_results_finishes_too",
    ),
    "forces that are lost": (
        "optimizers/test_lost_forces.py::test_the_last_finite_geometry_is_restored",
        "optimizers/test_lost_forces.py::test_no_forces_anywhere",
    ),
    "modules that JSON names": (
        "io/test_documents.py::test_modules_that_json_names_are_never_imported",
        "io/test_hostile.py::test_harmful_files_do_no_harm",
    ),
    "names that are no UTF-8": (
        "io/test_containers.py::test_a_name_that_is_no_utf8_is_escaped",
        "io/test_xyz.py::test_names_of_another_encoding_are_escaped",
    ),
    "damaged frames": (
        "io/test_xyz.py::test_a_damaged_frame_costs_itself_alone",
        "io/test_xyz.py::test_a_line_too_many_costs_the_frame_that_has_it",
    ),
    "damaged members": (
        "io/test_containers.py::test_a_damaged_member_costs_itself",
        "io/test_hostile.py::test_damaged_files_cost_no_more_than_their_structures",
    ),
    "failures that cannot be drawn": (
        "cases/test_reports.py::test_failures_that_cannot_be_drawn_are_told",
        "screening/test_export.py::test_a_crystal_that_a_format_cannot_hold_costs_itself",
    ),
    "what cannot be pickled": ("screening/test_many.py::test_processes_do_the_same_and_read_as_they_need",),
}

#: Inputs that vanished, and outputs that were lost.
LOST = {
    "CIFs of several blocks": (
        "io/test_containers.py::test_each_block_is_a_structure",
        "io/test_containers.py::test_in_an_archive_too",
    ),
    "sources without a structure": ("io/test_formats.py::test_an_empty_source_is_an_error",),
    "members of several structures": ("io/test_containers.py::test_members_of_several_structures",),
    "folders of mixed files": (
        "io/test_containers.py::test_every_structure_file_beside_others_is_read",
        "io/test_containers.py::test_what_is_hidden_and_what_is_no_structure_is_left_out",
        "io/test_containers.py::test_all_are_named",
        "cli/test_screen.py::test_files_that_are_left_out_are_counted",
    ),
    "shapes of JSON": ("io/test_documents.py::test_shapes", "io/test_formats.py::test_formats"),
    "a screening's Parquet as input": ("io/test_parquet.py::test_expected_errors_are_no_messages",),
    "a source that is away": (
        "screening/test_blocks.py::test_a_source_that_is_away_for_a_while_costs_no_crystal",
        "io/test_source.py::test_a_file_that_goes_away_stops_the_reading",
    ),
    "Parquet that is replaced": ("io/test_parquet.py::test_a_file_written_anew_while_it_is_read_stops_the_reading",),
    "damaged files of results": (
        "screening/test_folder.py::test_damaged_files_are_told_and_done_again",
        "screening/test_run.py::test_blocks_that_are_damaged_are_done_again",
    ),
    "outputs onto inputs": (
        "screening/test_export.py::test_what_the_screening_needs_is_not_overwritten",
        "io/test_output.py::test_an_input_is_never_overwritten",
        "cases/test_reports.py::test_a_page_never_replaces_what_it_tells_of",
    ),
    "an export that meets damage": (
        "screening/test_export.py::test_a_damaged_block_costs_nothing_that_was_written_before",
    ),
    "a shard that is missing": ("screening/test_export.py::test_a_shard_that_is_missing_is_said",),
    "names": (
        "io/test_sink.py::test_names_come_back",
        "io/test_sink.py::test_names_come_back_from_files_of_one_crystal",
        "io/test_sink.py::test_texts_that_extended_xyz_would_lose_come_back",
    ),
    "results of before": (
        "cli/test_relax.py::test_results_of_before_are_replaced_if_asked_for_once_something_is_written",
        "io/test_sink.py::test_what_was_there_stays_until_something_is_written",
    ),
    "places where nothing can be written": (
        "io/test_output.py::test_formats_that_cannot_be_read_when_compressed",
        "io/test_output.py::test_a_place_where_nothing_can_be_written",
    ),
    "JSON in proportion": ("io/test_sink.py::test_json_takes_time_in_proportion",),
    "names of files": ("cli/test_relax.py::test_folders_and_names_of_files",),
    "databases that are read": ("io/test_formats.py::test_a_database_that_is_not_ases_is_left_as_it_is",),
    "journals": ("screening/test_folder.py::test_what_is_no_line_of_a_block_is_ignored_and_said",),
    "a full disk": ("io/test_sink.py::test_a_full_disk_ends_a_database_as_it_does_other_files",),
}

#: What was inconvenient.
COMFORT = {
    "MatGL without DGL": ("graph/test_matgl_import.py::test_matgl_2_without_dgl",),
    "warnings of other threads": ("cases/test_comfort.py::test_threads_leave_the_filters_of_warnings_alone",),
    "torch's default type": (
        "calculators/test_matgl.py::test_the_callers_default_type_is_neither_used_nor_changed",
        "cases/test_comfort.py::test_predictions_do_not_depend_on_the_default_type",
    ),
    "atoms far from their cell": ("graph/test_matgl_builder.py::test_atoms_far_away_are_wrapped_first",),
    "workers of one GPU": ("prediction/test_slots.py::test_as_many_processes_as_the_machine_makes_good_use_of",),
    "the optimizer in a pickle": ("optimizers/test_pickling.py::test_it_goes_on_as_the_original",),
    "options without sense": (
        "cases/test_comfort.py::test_options_without_sense_are_refused_at_once",
        "screening/test_refusals.py::test_a_folder_without_a_name_is_none",
    ),
    "one vocabulary": ("cases/test_comfort.py::test_relax_and_screen_have_one_vocabulary",),
    "progress": ("cli/test_relax_calculator.py::test_progress_on_a_terminal",),
    "the table of relax": (
        "cli/test_relax.py::test_the_report",
        "cli/test_relax_calculator.py::test_jumps_and_calls_are_told",
    ),
    "a limit of the volume's error": ("prediction/test_judgement.py::test_limits",),
    "the list of models": ("cases/test_comfort.py::test_the_list_of_models_fits_a_terminal",),
    "the report": ("report/test_outcome.py::test_what_is_told",),
}

PARTS = {"silently wrong": SILENTLY_WRONG, "one for all": ONE_FOR_ALL, "lost": LOST, "comfort": COMFORT}
