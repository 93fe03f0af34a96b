"""The expansion of component-first features into blocks over pairs of shells."""
