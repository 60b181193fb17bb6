# No C types: a generic class is no extension type. Compiled, its methods take a third of the time.
