"""Operations decided where a commit is applied: pure functions over bytes."""
