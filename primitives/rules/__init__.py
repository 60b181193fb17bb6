"""Operations that are decided where a commit is applied: pure functions over bytes, and how they are asked for."""
