"""The criteria benchmark: what each criterion's choice costs in accuracy, without any training afterwards."""
