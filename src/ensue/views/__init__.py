"""What a person sees of a run: report, model card, curve, and text that is safe to show."""
