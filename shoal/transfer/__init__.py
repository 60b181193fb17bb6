"""Export, import and repair of stores."""
