"""The contracts between Mayfly's services: subjects, headers, errors, messages, states. Nothing else lives here."""
