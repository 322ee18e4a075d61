"""Files and the Hub: nothing here knows a model."""
