def test_an_input_that_is_a_slice_counts_its_own_bytes_alone() -> None:
    everything = torch.zeros(1000, 8)
    model = nn.Linear(8, 8)
    assert peak_activation_bytes(model, everything[:1]) == peak_activation_bytes(model, torch.zeros(1, 8)) == 64
