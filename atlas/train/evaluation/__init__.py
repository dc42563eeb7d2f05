"""How good a model is: masks against what people drew, case by case, and what the numbers say together."""
